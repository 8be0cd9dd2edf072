# The two commands: `make repro` and `make test`. Both set up .venv first, from requirements.txt.
PYTHON ?= python3
# Set to PyTorch's CPU index to leave out the CUDA packages on a machine without a GPU (see README).
TORCH_INDEX ?=

SHELL := /bin/bash
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
SCALE = $(shell sed -n 's/^scale: *\([a-z0-9_]*\).*/\1/p' params.yaml)

.PHONY: repro test test-all lint plots bench lock clean distclean setup

repro: setup
	dvc repro
	@$(MAKE) --no-print-directory plots
	@python -m stages.show
	@echo
	@echo "Pictures, for a paper:    plots/figures/$(SCALE)/"
	@echo "Interactive page:         dvc_plots/index.html"
	@echo "All numbers:              metrics/experiment.json, metrics/figures/$(SCALE)/"

test: setup
	pytest

test-all: setup
	pytest -m ""

lint: setup
	ruff check .
	ruff format --check .
	mypy

plots: setup
	@dvc plots show --out dvc_plots > /dev/null
	@echo "Wrote dvc_plots/index.html"

# Minutes each; every one prints JSON, and progress beside it.
bench: setup
	pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	python -m benchmarks.labels
	python -m benchmarks.training
	python -m benchmarks.stacking
	python -m benchmarks.choices
	python -m benchmarks.arithmetic
	python -m benchmarks.growth
	python -m benchmarks.pipeline

setup: .venv/installed

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; use make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
ifeq ($(TORCH_INDEX),)
	pip install --quiet --disable-pip-version-check --requirement requirements.txt
else
	grep -vE '^(cuda|nvidia|triton)' requirements.txt > .venv/requirements.txt
	pip install --quiet --disable-pip-version-check --extra-index-url $(TORCH_INDEX) \
		--requirement .venv/requirements.txt
endif
	@touch $@

# Renews the pins; needs uv.
lock:
	uv pip compile --universal --python-version 3.11 --no-header --quiet requirements.in -o requirements.txt

# What a run makes again. Downloads, finished trainings (.points) and DVC's cache stay.
clean:
	rm -rf data/datasets data/confusion data/labels dvc_plots .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

# Everything that is not in git: the next run trains from the beginning.
distclean: clean
	rm -rf .venv .points .dvc/cache .dvc/tmp data/downloads
