# `make help` lists the targets: the words behind them. Each sets up .venv first, from requirements.txt.
## PYTHON=python3.12 the Python, 3.11 or newer, that .venv is made with
PYTHON ?= python3
## TORCH_INDEX=URL   PyTorch's CPU index, to leave out the CUDA packages on a machine without a GPU
TORCH_INDEX ?=

SHELL := /bin/bash
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
SCALE = $(shell sed -n 's/^scale: *\([a-z0-9_]*\).*/\1/p' params.yaml)

.PHONY: repro help test test-all test-faults verify lint audit plots bench gpu-bundle lock clean distclean setup

repro: setup  ## what has changed: images, labels, trainings, figures; pictures and page of all
	@python -m tools.lock
	dvc repro
	@$(MAKE) --no-print-directory plots
	@python -m stages.show
	@echo
	@echo "Pictures, for a paper:    plots/figures/$(SCALE)/"
	@echo "Interactive page:         dvc_plots/index.html"
	@echo "All numbers:              metrics/experiment.json, metrics/figures/$(SCALE)/"

help:  ## these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s%s\n", $$1, $$2 } /^## / { print "with " substr($$0, 4) }' Makefile

# On two cores; a module stays in one process, for what its tests share. The longest comes first.
TESTS := pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: setup  ## the tests, without slow ones
	$(TESTS)

test-all: setup  ## slow tests too
	$(TESTS) -m "not faults"

test-faults: setup  ## kills, failing writes, rot: about 40 minutes; prints its counts
	pytest -m faults

verify: setup  ## train a sample of the recorded runs again and compare
	@python -m tools.lock
	dvc repro
	python -m stages.verify

lint: setup  ## ruff, mypy
	ruff check .
	ruff format --check .
	mypy

audit: setup  ## is what is installed what is pinned, and is any of it known to be vulnerable?
	@python -m tools.audit

plots: setup  ## the interactive page, dvc_plots/index.html
	@dvc plots show --out dvc_plots > /dev/null
	@echo "Wrote dvc_plots/index.html"

bench: repro  ## measurements, minutes each: JSON, and progress beside it
	$(WHEELS) --requirement benchmarks/requirements.txt
	python -m benchmarks.labels
	python -m benchmarks.training
	python -m benchmarks.stacking
	python -m benchmarks.choices
	python -m benchmarks.arithmetic
	python -m benchmarks.growth
	python -m benchmarks.lengths
	python -m benchmarks.updates
	python -m benchmarks.machines
	python -m benchmarks.pipeline

gpu-bundle: setup  ## what must travel to a GPU without network, besides git's files: docs/GPU.md
	@python -m benchmarks.gpu bundle

setup: .venv/installed  ## .venv alone

# Nothing is installed whose hash is not in requirements.txt. All are wheels but one package that has
# none: the pinned setuptools builds it, not one that pip fetches for the occasion without a hash.
INSTALL := pip install --quiet --disable-pip-version-check
WHEELS := $(INSTALL) --require-hashes --only-binary :all:
SOURCE := $(INSTALL) --require-hashes --no-deps --no-build-isolation --use-pep517
# $(call pins,NAMES) prints the pins of these names with their hashes, $(call pins,NAMES,!) the others.
pins = awk '/^[a-z]/ { keep = $(2) /^($(1))==/ } keep' requirements.txt

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; use make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(call pins,setuptools) > .venv/setuptools.txt
	$(WHEELS) --requirement .venv/setuptools.txt
	$(call pins,antlr4-python3-runtime) > .venv/source.txt
	$(SOURCE) --requirement .venv/source.txt
ifeq ($(TORCH_INDEX),)
	$(WHEELS) --requirement requirements.txt
else
	$(call pins,torch|torchvision|triton|nvidia-.*|cuda-.*,!) > .venv/requirements.txt
	$(WHEELS) --requirement .venv/requirements.txt
# These two go without hashes: they are other builds of the pinned versions, which only this index has
# and may build again. Whoever names an index trusts it with these two, and with nothing else.
	$(INSTALL) --only-binary :all: --no-deps --index-url $(TORCH_INDEX) \
		$$($(call pins,torch|torchvision) | sed -n 's/^\(torch[a-z]*==[^ ;]*\).*/\1/p')
endif
	@touch $@

LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet

lock:  ## renew the pins, with the hashes of every platform's files; needs uv
	$(LOCK) requirements.in -o requirements.txt
	$(LOCK) requirements-audit.in -o requirements-audit.txt
	$(LOCK) -c requirements.txt benchmarks/requirements.in -o benchmarks/requirements.txt

clean:  ## delete what a run makes again; downloads, finished trainings (.runs) and DVC's cache stay
	rm -rf data/datasets data/confusion data/labels dvc_plots .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean  ## delete everything that is not in git: the next run trains from the beginning
	rm -rf .venv .runs .dvc/cache .dvc/tmp data/downloads
