# Every target sets up what it needs, from a fresh clone on: a virtual environment in .venv, the pinned packages, Intaglio itself.
#   make            lint and test            make demo     the whole loop on a small archive, then look at demo/
#   make bench      figures, into bench/     make docs     rewrite docs/reference from the code
#   make sheets     pictures and figures of docs/quality, made again
#   make golden     rewrite golden files     make fast     the quick tests alone
# A machine with an NVIDIA GPU: make TORCH= demo   (takes the CUDA build of torch from PyPI, some gigabytes)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Of 18,000 modules most are never imported: each is compiled when it first is, unless this machine keeps no bytecode.
INSTALL := install -c constraints.txt $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile)
STAMP := $(VENV)/.intaglio-installed
TORCH ?= cpu
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PYTEST_ARGS ?=
BENCH_ARGS ?=
# Web checkers that .ci/run installs; tests that need them are skipped without, and say so.
export INTAGLIO_TEST_NODE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/intaglio-test-node/node_modules

.DEFAULT_GOAL := all
.PHONY: all setup lint test fast demo bench sheets docs golden format constraints clean
.NOTPARALLEL:

all: lint test

setup: $(STAMP)

# Rebuilt when a pin or a dependency changes. torch first: the default index would bring gigabytes of CUDA to a machine without a GPU.
# The indexes this machine is set up with are asked before the one of pytorch.org.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed; make PYTHON=python3.12 (after rm -rf $(VENV))" >&2; exit 2; }
	@echo "installing into $(VENV) (a few minutes the first time)" >&2
ifeq ($(TORCH),cpu)
	@$(PIP) $(INSTALL) 'torch==$(TORCH_VERSION)+cpu' 2>/dev/null \
	  || $(PIP) $(INSTALL) --extra-index-url $(TORCH_INDEX) 'torch==$(TORCH_VERSION)'
endif
	@$(PIP) $(INSTALL) -e '.[all,dev]'
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.reference --check

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

fast: $(STAMP)
	$(BIN)/python -m pytest -m 'not slow' $(PYTEST_ARGS)

demo: $(STAMP)
	$(BIN)/intaglio demo

bench: $(STAMP)
	@failed=; for file in bench/[a-z]*.py; do echo "== $$file" >&2; $(BIN)/python $$file $(BENCH_ARGS) || failed="$$failed $$file"; done; \
	  $(BIN)/python bench/_table.py && { test -z "$$failed" || { echo "error: these ended early:$$failed" >&2; exit 1; }; }

# What models make of real pictures, films, sounds, tunes and texts: sheets of docs/quality and figures in bench/results, rewritten.
sheets: $(STAMP)
	@set -e; for file in bench/quality/*.py; do echo "== $$file" >&2; $(BIN)/python $$file $(BENCH_ARGS); done

docs: $(STAMP)
	$(BIN)/python -m tools.reference

golden: $(STAMP)
	INTAGLIO_GOLDEN=1 $(BIN)/python -m pytest tests/test_golden.py $(PYTEST_ARGS)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Writes the versions of this environment down, after a deliberate upgrade.
constraints: $(STAMP)
	$(BIN)/python -m tools.constraints

clean:
	rm -rf $(VENV) demo dist build .pytest_cache .mypy_cache .ruff_cache
