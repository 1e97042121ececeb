# The commands that a person needs. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint type gallery clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv (once; about a minute and 2 GB)

# Torch comes first and pinned, so that nothing after it can choose another build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is older than 3.11; name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setup 1/3: a virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@echo "setup 2/3: torch (the largest download)"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt torch
	@echo "setup 3/3: twinact and its other dependencies"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "setup: done"

demo: $(STAMP) ## Learn actions from pictures and write demo/report.html
	$(BIN)/twinact demo --out demo

test: $(STAMP) ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8

lint: $(STAMP) ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMP) ## Check types
	$(BIN)/mypy

gallery: $(STAMP) ## Draw docs/gallery.md anew
	$(BIN)/twinact world gallery --out docs/gallery

clean: ## Remove .venv and the caches; runs and pictures stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
