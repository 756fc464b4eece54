# Azure OpenAI Proxy. `make help` lists what there is.
TAP := node_modules/.bin/tap
TSC := node_modules/.bin/tsc

.DEFAULT_GOAL := check
.PHONY: help install build run test unit e2e fuzz simulate bench bench-compare soak coverage lint format types check clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: node_modules/.package-lock.json ## the packages of package-lock.json
node_modules/.package-lock.json: package.json package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

build: install ## lib and test to dist
	@$(TSC) -p .

run: build ## the proxy with config.yaml, or the demo where there is none
	@if [ -f config.yaml ]; then exec node bin/proxy.js --config config.yaml; else exec node bin/proxy.js --demo; fi

test: build ## all tests
	@$(TAP) run -R tap --disable-coverage

unit: build ## the tests without sockets
	@$(TAP) run -R tap --disable-coverage dist/test/*.test.js dist/test/unit

e2e: build ## the tests that start the program (PROXY_BIN=FILE: a packaged one)
	@$(TAP) run -R tap --disable-coverage dist/test/e2e

fuzz: build ## the seeded tests (FUZZ_SEED, FUZZ_RUNS)
	@$(TAP) run -R tap --disable-coverage dist/test/fuzz

simulate: build ## what each balancing policy leaves of Azure's prompt cache (SEED)
	@node dist/test/simulate/print.js

bench: build ## CPU, latency and memory beside direct and nginx (ROUNDS, SECONDS, SCENARIOS=A,E, OUT=FILE)
	@node dist/test/bench/main.js

bench-compare: build ## two runs side by side (OLD=FILE NEW=FILE)
	@node dist/test/bench/compare.js "$(OLD)" "$(NEW)"

soak: build ## mixed load and faults for some MINUTES: does everything it took come back?
	@MINUTES=$(or $(MINUTES),5) node --expose-gc dist/test/bench/soak.js

coverage: build ## all tests, with what they do not reach
	@$(TAP) run -R tap --show-full-coverage

types: install
	@$(TSC) -p . --noEmit

lint: install
	@node_modules/.bin/biome check .

format: install ## rewrite the sources as the formatter wants them
	@node_modules/.bin/biome check --write .

check: lint types coverage ## types, lint, all tests, coverage

clean: ## what was built
	rm -rf dist build .tap
