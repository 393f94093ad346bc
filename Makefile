# The two commands a newcomer needs: make demo, make test. Everything else is here too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEBIAN := prometheus curl openssl

.PHONY: help demo test test-all check format tools clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

demo: $(STAMP) ## the exporter on a simulated API, at http://127.0.0.1:12758/metrics
	$(BIN)/cryptoloot-exporter demo

test: $(STAMP) ## all tests but the slow ones, with coverage
	$(BIN)/python -m pytest -m 'not slow' --cov --cov-report=term --cov-fail-under=95

test-all: $(STAMP) ## all tests, with coverage
	$(BIN)/python -m pytest --cov --cov-report=term --cov-fail-under=95

check: $(STAMP) ## lint, format, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP) ## write code the way check wants it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

tools: ## what the end-to-end tests need, from Debian, where it is missing and apt is there
	@missing=$$(for package in $(DEBIAN); do dpkg -s $$package >/dev/null 2>&1 || echo $$package; done); \
	if [ -z "$$missing" ]; then echo "tools: all there"; \
	elif ! command -v apt-get >/dev/null; then echo "tools: no apt-get here; install by hand: $$missing"; \
	else apt-get update -q && apt-get install -q -y --no-install-recommends $$missing; fi

clean: ## remove what the targets above made
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage* dist build
