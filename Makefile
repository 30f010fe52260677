# The targets of .ci/run are single steps of it; the others are for work in between.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

TOOL := GOWORK=off go tool -modfile=$(CURDIR)/tools/go.mod
FUZZTIME ?= 20s
BENCH ?= .
PKG ?= ./...

.PHONY: help test race lint fmt fuzz bench cover api tidy-check servers foreign ci

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

bench: ## run the benchmarks BENCH (.) of the packages PKG (./...)
	go test -run '^$$' -bench '$(BENCH)' -benchmem $(PKG)

cover: ## write coverage.out and print the total
	go test -coverprofile=coverage.out -coverpkg=./... ./...
	@go tool cover -func=coverage.out | tail -n 1

api: ## show what has changed in the exported API since the last tag
	@bash tools/api.sh

tidy-check: ## check that every go.mod is tidy
	bash .ci/run tidy

servers: ## build the etcd servers of other versions and print their paths
	@bash tools/servers.sh

foreign: ## run etcd's own client tests over clients of this library
	bash .ci/run foreign

ci: ## run everything that CI runs
	bash .ci/run
