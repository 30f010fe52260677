# The targets of .ci/run are single steps of it; the others are for work in between.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

TOOL := GOWORK=off go tool -modfile=$(CURDIR)/tools/go.mod
FUZZTIME ?= 20s

.PHONY: help test race lint fmt fuzz fuzz-gateway bench bench-quick bench-page bench-counts cover api tidy-check servers matrix faults soak reliability-page sim mutants foreign ci

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 16

test: ## run all tests of all modules
	go test work

race: ## run all tests with the race detector
	bash .ci/run test

lint: ## build, vet and lint each module by itself
	bash .ci/run build lint

fmt: ## format all Go files
	@go list -m -f '{{.Dir}}' | while read -r dir; do (cd "$$dir" && $(TOOL) golangci-lint fmt --config $(CURDIR)/.golangci.yml </dev/null); done

fuzz: ## run each fuzz target for FUZZTIME (20s)
	@bash tools/fuzz.sh $(FUZZTIME)

GATEWAY ?= 30m

fuzz-gateway: ## fuzz requests to the gateway for GATEWAY (30m) and write docs/reliability.md
	@ETCDKIT_RELIABILITY=write ETCDKIT_FUZZ_COMMAND='make fuzz-gateway' bash tools/fuzz.sh $(GATEWAY) FuzzGateway_RawRequests

BENCHMARK := go test -count=1 -timeout 90m ./internal/integration

bench: ## measure beside client/v3 and write docs/performance.md (35 min, on a quiet machine)
	ETCDKIT_BENCH=full $(BENCHMARK) -v -run '^TestBench$$'

bench-quick: ## the same with fewer sizes and shorter turns (5 min)
	ETCDKIT_BENCH=quick $(BENCHMARK) -v -run '^TestBench$$'

bench-page: ## render docs/performance.md, and what quotes it, from docs/performance.json
	ETCDKIT_BENCH=page $(BENCHMARK) -run '^TestPerformance_Regenerate$$'

bench-counts: ## write the baseline of RPCs, events, allocations and goroutines
	ETCDKIT_BENCH=counts $(BENCHMARK) -run '^TestCounts$$'

cover: ## write coverage.out and print the total
	go test -coverprofile=coverage.out -coverpkg=./... ./...
	@go tool cover -func=coverage.out | tail -n 1

api: ## show what has changed in the exported API since the last tag
	@bash tools/api.sh

tidy-check: ## check that every go.mod is tidy
	bash .ci/run tidy

servers: ## build the etcd servers of other versions and print their paths
	@bash tools/servers.sh

matrix: ## run the tests on each version of etcd, go on after an interruption, and write docs/reliability.md
	@bash tools/matrix.sh

FAULTS ?= 20m
RELIABILITY := go test -count=1 -timeout 3h -v ./internal/integration

faults: ## break a cluster and its clients for FAULTS (20m) and write docs/reliability.md
	ETCDKIT_RELIABILITY=write ETCDKIT_FAULTS=$(FAULTS) $(RELIABILITY) -run '^TestNemesis$$'

SOAK ?= 20m

soak: ## look for what grows for SOAK (20m) and write docs/reliability.md
	ETCDKIT_RELIABILITY=write ETCDKIT_SOAK=$(SOAK) $(RELIABILITY) -run '^TestSoak$$'

reliability-page: ## render docs/reliability.md from docs/reliability.json
	ETCDKIT_RELIABILITY=page $(RELIABILITY) -run '^TestReliability_Regenerate$$'

MINUTES ?= 10

sim: ## simulate a cluster under faults, with fresh seeds for MINUTES (10); adds to the counts in .sim
	@mkdir -p .sim
	go test -c -o .sim/sim.test ./internal/sim
	cd internal/sim && $(CURDIR)/.sim/sim.test -test.run '^TestSim' -fresh $(MINUTES)m -state $(CURDIR)/.sim

mutants: ## check that the simulation finds each known defect
	go run ./internal/sim/mutants

foreign: ## run etcd's own client tests over clients of this library
	bash .ci/run foreign

ci: ## run everything that CI runs
	bash .ci/run
