BIN := .venv/bin
INSTALLED := .venv/.installed
SECURITY := .venv-security
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate $(UPGRADE)

PYTEST := $(BIN)/python -m pytest -q
IN_PROCESSES := -n auto --dist worksteal --durations=5 -m 'not campaign'

# Tests that break the services, wait for leases to end, or install programs.
SLOW_TESTS := tests/resilience tests/acceptance/conformance tests/acceptance/client/test_wheel.py \
	tests/acceptance/test_asyncapi.py tests/acceptance/test_benchmarks.py tests/acceptance/test_prometheus.py \
	tests/acceptance/test_report_pages.py

# Where it is set, each process that a command here starts compiles all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo run test test-slow lint types client bench chaos docs sbom audit lock clean test-rabbitmq4

help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1: /p' $(MAKEFILE_LIST) | while IFS=: read -r name text; do \
		printf '  make %-16s%s\n' "$$name" "$$text"; done

demo: $(INSTALLED) ## Start the real services, publish events, ask questions, show the answers
	$(BIN)/python -m local.demo

run: $(INSTALLED) ## Run RabbitMQ, PostgreSQL and a worker until Ctrl-C
	$(BIN)/python -m local.run

test: lint types ## Run the linter, the formatter, the type checker and the tests; POSTGRESQL_VERSION=15, or 17
	$(PYTEST) $(IN_PROCESSES) tests $(SLOW_TESTS:%=--ignore=%)

test-slow: $(INSTALLED) ## Run the tests that break services, wait long or install programs, and a campaign
	$(PYTEST) $(IN_PROCESSES) $(SLOW_TESTS)
	$(PYTEST) -m campaign

test-rabbitmq4: $(INSTALLED) ## Run the acceptance and resilience tests on RabbitMQ 4, installed if need be; ONLY="PATH PATH"
	RABBITMQ_VERSION=4 $(PYTEST) $(IN_PROCESSES) $(or $(ONLY),tests/acceptance tests/resilience)

lint: $(INSTALLED) ## Run the linter and the formatter; they change no file
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet

types: $(INSTALLED) ## Run the type checker
	$(BIN)/mypy --no-error-summary

client: $(INSTALLED) ## Build the wheel of export-runs-client, in dist or DIST=
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--wheel-dir $(or $(DIST),dist) ./client

bench: $(INSTALLED) ## Measure throughput and latency; QUICK=1 only tries it out, ONLY="ROW ROW" measures these rows
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

chaos: $(INSTALLED) ## Break the services on purpose and check that no event is lost; SEED=, DURATION_S=, FAULTS=, PGBOUNCER=1, CLUSTER=1
	$(BIN)/python -m tests.chaos $(SEED:%=--seed %) $(DURATION_S:%=--duration-s %) $(FAULTS:%=--faults %) \
		$(if $(PGBOUNCER),--pgbouncer) $(if $(CLUSTER),--cluster)

docs: $(INSTALLED) ## Make an HTML page of the contract, build/contract/index.html; needs Node.js 20 with npm
	$(BIN)/export-runs contract --check
	cd local/contract_page && npm ci && node make.mjs ../../docs/asyncapi.yaml ../../build/contract

sbom: $(SECURITY)/.installed ## Write what the service consists of, build/sbom.json, in the format CycloneDX
	mkdir -p build
	$(SECURITY)/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.json requirements.lock

audit: $(SECURITY)/.installed ## Ask whether weaknesses of what the service needs are known; asks the network
	$(SECURITY)/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

lock: $(INSTALLED) ## Write the requirements files anew; UPGRADE=--upgrade takes newer versions
	$(LOCK) --extra dev --extra report --extra tracing --group build --output-file requirements-dev.lock pyproject.toml
	$(LOCK) --extra report --extra tracing --constraint requirements-dev.lock --output-file requirements.lock pyproject.toml
	$(LOCK) --constraint requirements-dev.lock --group build --output-file requirements-build.lock
	$(LOCK) --constraint requirements-dev.lock --output-file benchmarks/requirements-peers.lock benchmarks/requirements-peers.in
	$(LOCK) --output-file local/requirements-security.lock local/requirements-security.in

clean: ## Remove .venv and all caches
	rm -rf .venv .venv-peers $(SECURITY) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements-dev.lock pyproject.toml local/bootstrap.sh
	local/bootstrap.sh

$(SECURITY)/.installed: local/requirements-security.lock $(INSTALLED)
	$(BIN)/python -m venv --clear $(SECURITY)
	$(SECURITY)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@
