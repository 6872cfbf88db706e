# Every target makes its own environment in .venv where that is missing.
#   make demo          install, and run the toxicity experiment on the model in the package
#   make test          the tests, on two cores in about ten minutes
#   make help          all targets

PYTHON ?= python3
# On Linux, pip's torch brings CUDA along. Without a GPU, this saves gigabytes:
#   make install PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_FLAGS ?=
WORKERS ?= 2

BIN := .venv/bin
INSTALLED := .venv/.installed
DOCS_INSTALLED := .venv/.installed-docs
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) -c constraints/main.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test accept lint docs bench clean

help:  ## Say what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Install trimtab, editable, with what its tests need.

$(INSTALLED): pyproject.toml constraints/main.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "trimtab needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e ".[dev]"
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(PIP) -e ".[docs]"
	@touch $@

demo: $(INSTALLED)  ## Run the toxicity experiment on the village; the last line names the report.
	$(BIN)/trimtab run toxicity

test: $(INSTALLED)  ## Run the tests.
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

accept: $(INSTALLED)  ## Measure the acceptance figures at full size.
	$(BIN)/python -m benchmarks.accept

lint: $(INSTALLED)  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS_INSTALLED)  ## Build the documentation in site/.
	$(BIN)/mkdocs build --strict --quiet
	@echo "documentation: site/index.html"

bench: $(INSTALLED)  ## Time trimtab beside plain transformers; writes benchmarks/results.json.
	$(BIN)/python -m benchmarks

clean:  ## Remove the environment, caches and built files; runs/ stays.
	rm -rf .venv site dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
