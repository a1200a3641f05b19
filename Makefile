# Two commands are enough: `make demo` and `make test`. Everything is installed into .venv from locked versions.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(shell cat requirements/lock.txt requirements/torch.txt pyproject.toml | cksum | cut -d' ' -f1)
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
RUN := $(BIN)/python -P
DEMO := demo

.PHONY: help install demo test test-all lint format types protocol contracts bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## create .venv and install the locked dependencies

$(INSTALLED): requirements/lock.txt requirements/torch.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "install Python 3.11 or newer first"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: make PYTHON=python3.12 ..."; exit 1; }
	@echo "installing the locked dependencies into $(VENV) (once; about a minute)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes --no-deps -r requirements/lock.txt
	@$(PIP) -r requirements/torch.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-* && touch $@

demo: $(INSTALLED) ## train a federation of phantom hospitals, write a report (IN_PROCESS=1: simulated)
	@$(BIN)/fedmepd demo --out $(DEMO) $(if $(IN_PROCESS),--in-process)

test: $(INSTALLED) ## the default test suite, on two cores
	@$(RUN) -m pytest -n 2 --dist loadfile

test-all: $(INSTALLED) ## the default suite and the slow tests
	@$(RUN) -m pytest -m 'not gpu or gpu'

lint: $(INSTALLED) ## lint, format, spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell --toml pyproject.toml coordinator fedmepd protos security site_agent tests benchmarks ops docs README.md CHANGELOG.md CONTRIBUTING.md Makefile

format: $(INSTALLED) ## rewrite files in the project's format
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

types: $(INSTALLED) ## mypy, strict
	@$(BIN)/mypy

protocol: $(INSTALLED) ## generated code is up to date, and no released message is broken
	@$(RUN) -m pytest -q tests/protos/test_generated_code.py
	@$(RUN) -m protos.compatibility

contracts: $(INSTALLED) ## import contracts
	@$(BIN)/lint-imports --no-cache

bench: $(INSTALLED) ## the benchmarks; JSON goes to benchmarks/results
	@for name in training_step whole_volume round_time demo_seeds transfer federated_round aggregation control_plane scrape status_page dashboard_data soak secagg secagg_sum secagg_rounds demo_rounds ledger privacy_plan private_step; do PYTHONPATH=. $(RUN) -m benchmarks.$$name || exit 1; done

clean: ## remove the environment, caches and the demo
	rm -rf $(VENV) $(DEMO) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find . -name __pycache__ -prune -exec rm -rf {} +
