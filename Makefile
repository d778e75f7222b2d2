# Everything a person or a machine does with this repository. `make help` lists it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(VENV)/bin/uv
SETUP  := $(VENV)/.set-up
export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_PYTHON_DOWNLOADS := never
# Where it is set, each worker of the tests would take all of them apart anew: 6 of the 13 s in which it loads them.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help up test check lint unit bench setup format clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

up: $(SETUP) ## Run the whole business on this machine (Ctrl-C stops it); ARGS="--ui-port 8000" for options
	@trap : INT; $(BIN)/wopr up $(ARGS) || [ $$? -eq 130 ] # Ctrl-C, which is no error of make

test: $(SETUP) ## Format, lint, types, contracts, then every test; the same gate as CI
	@BIN=$(BIN) bash scripts/run-tests $(ARGS)

check: $(SETUP) lint unit ## Quick: format, lint, types, contracts, unit tests

lint: $(SETUP)
	@echo "→ format, lint, types, contracts"
	@$(BIN)/ruff format --check --quiet . || (echo "fix: make format"; exit 1)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/mypy benchmarks
	@$(BIN)/lint-imports --no-logo

unit: $(SETUP)
	@$(BIN)/pytest -q -n 3 --dist loadgroup -m "not e2e and not slow and not machines" $(ARGS)

bench: $(SETUP) ## Measure the goals, one table each (long); ARGS="gateway" for one
	@$(BIN)/python benchmarks/run.py $(ARGS)

format: $(SETUP) ## Format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix --quiet .

setup: $(SETUP) ## Install what is needed, without running anything

$(SETUP): pyproject.toml uv.lock scripts/set-up
	@bash scripts/set-up "$(PYTHON)" "$(VENV)"
	@touch $@

clean: ## Remove the environment and caches (data under .wopr stays)
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis test-results
