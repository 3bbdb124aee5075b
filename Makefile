BIN := .venv/bin
INSTALLED := .venv/.installed
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate $(UPGRADE)

.DEFAULT_GOAL := help
.PHONY: help demo run test lint types bench chaos lock clean

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' $(MAKEFILE_LIST) | while IFS=: read -r name text; do \
		printf '  make %-8s%s\n' "$$name" "$$text"; done

demo: $(INSTALLED) ## A short story told by the real thing: events in, answers out
	$(BIN)/python -m local.demo

run: $(INSTALLED) ## RabbitMQ, PostgreSQL and a worker, until Ctrl-C
	$(BIN)/python -m local.run

test: lint types ## Linter, formatter, type checker and all tests
	$(BIN)/python -m pytest -q --durations=5

lint: $(INSTALLED) ## Linter and formatter, which change nothing
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet

types: $(INSTALLED) ## Type checker
	$(BIN)/mypy --no-error-summary

bench: $(INSTALLED) ## Measure throughput and latency
	$(BIN)/python -m benchmarks

chaos: $(INSTALLED) ## Break the services on purpose and count what comes through; SEED=, DURATION_S=, FAULTS=
	$(BIN)/python -m tests.chaos $(SEED:%=--seed %) $(DURATION_S:%=--duration-s %) $(FAULTS:%=--faults %)

lock: $(INSTALLED) ## Resolve the locks again; UPGRADE=--upgrade takes newer versions
	$(LOCK) --extra dev --group build --output-file requirements-dev.lock pyproject.toml
	$(LOCK) --constraint requirements-dev.lock --output-file requirements.lock pyproject.toml
	$(LOCK) --constraint requirements-dev.lock --group build --output-file requirements-build.lock
	$(LOCK) --constraint requirements-dev.lock --output-file benchmarks/requirements-peers.lock benchmarks/requirements-peers.in

clean: ## Remove the environment and all caches
	rm -rf .venv .venv-peers .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements-dev.lock pyproject.toml local/bootstrap.sh
	local/bootstrap.sh
