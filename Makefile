# The commands that a person needs. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Where this is set, every process would compile every module anew: half a minute before the first test.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow stress lint type gallery docs clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv (once; about a minute and 2 GB)

# Torch comes first and pinned, so that nothing after it can choose another build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is older than 3.11; name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setup 1/4: a virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@echo "setup 2/4: torch (the largest download)"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt torch
	@echo "setup 3/4: twinact and its other dependencies"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
# MediaPipe's wheel holds networks that are wanted and asks for packages that are not; hence --no-deps.
	@echo "setup 4/4: BlazePose, which reads photographs of people"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps mediapipe==0.10.21 && \
	    $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt ai-edge-litert || \
	    echo "setup: BlazePose has no release for this machine; docs/photographs.md names other readers" >&2
	@touch $@
	@echo "setup: done"

demo: $(STAMP) ## Learn actions from pictures and write demo/report.html
	$(BIN)/twinact demo --out demo

test: $(STAMP) ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

# One worker more than cores, since many of these tests wait for processes that they start.
slow: $(STAMP) ## Run the slow tests: what the shipped weights can do, and what starts clusters or trains
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not gpu" --dist worksteal --timeout 1800 \
	    -n $$($(BIN)/python -c 'import os; print(min(8, 1 + os.cpu_count()))')

stress: $(STAMP) ## Damage, kill and crowd everything, about an hour of one core; goes on where it was stopped
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/stress.py --out benchmarks/results/stress.json --work runs/stress

lint: $(STAMP) ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMP) ## Check types
	$(BIN)/mypy

gallery: $(STAMP) ## Draw docs/gallery.md anew
	$(BIN)/twinact world gallery --out docs/gallery

docs: $(STAMP) ## Write the documents as a site into site/
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## Remove .venv and the caches; runs and pictures stay
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache .hypothesis
