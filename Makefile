# The two commands: `make repro` and `make test`. Both set up .venv first, from requirements.txt.
PYTHON ?= python3
# Set to PyTorch's CPU index to leave out the CUDA packages on a machine without a GPU (see README).
TORCH_INDEX ?=

SHELL := /bin/bash
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
SCALE = $(shell sed -n 's/^scale: *\([a-z0-9_]*\).*/\1/p' params.yaml)

.PHONY: repro test test-all test-faults verify lint audit plots bench gpu-bundle lock clean distclean setup

repro: setup
	@python -m tools.lock
	dvc repro
	@$(MAKE) --no-print-directory plots
	@python -m stages.show
	@echo
	@echo "Pictures, for a paper:    plots/figures/$(SCALE)/"
	@echo "Interactive page:         dvc_plots/index.html"
	@echo "All numbers:              metrics/experiment.json, metrics/figures/$(SCALE)/"

# On two cores; a module stays in one process, for what its tests share.
TESTS := pytest --numprocesses 2 --dist loadfile

test: setup
	$(TESTS)

test-all: setup
	$(TESTS) -m "not faults"

# Kills, failing writes, rot: about 40 minutes; prints its counts.
test-faults: setup
	pytest -m faults

# Trains a sample of the recorded runs again and compares.
verify: setup
	@python -m tools.lock
	dvc repro
	python -m stages.verify

lint: setup
	ruff check .
	ruff format --check .
	mypy

# Is what is installed what is pinned, and is any of it known to be vulnerable?
audit: setup
	@python -m tools.audit

plots: setup
	@dvc plots show --out dvc_plots > /dev/null
	@echo "Wrote dvc_plots/index.html"

# Minutes each; every one prints JSON, and progress beside it.
bench: repro
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

# What must travel to a GPU without network, besides the files that git tracks: docs/GPU.md.
gpu-bundle: setup
	@python -m benchmarks.gpu bundle

setup: .venv/installed

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

# Renews the pins, with the hashes of every platform's files; needs uv.
LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet

lock:
	$(LOCK) requirements.in -o requirements.txt
	$(LOCK) requirements-audit.in -o requirements-audit.txt
	$(LOCK) -c requirements.txt benchmarks/requirements.in -o benchmarks/requirements.txt

# What a run makes again. Downloads, finished trainings (.runs) and DVC's cache stay.
clean:
	rm -rf data/datasets data/confusion data/labels dvc_plots .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

# Everything that is not in git: the next run trains from the beginning.
distclean: clean
	rm -rf .venv .runs .dvc/cache .dvc/tmp data/downloads
