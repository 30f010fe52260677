#!/usr/bin/env bash
# Runs every fuzz target of all modules for the given time each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export GOWORK=off
time=${1:-20s}

for module in . examples internal/integration; do
	cd "$module"
	for package in $(go list ./...); do
		# -list starts the test binary, which has to be compiled in any case.
		for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
			printf '==> %s %s\n' "$package" "$target"
			go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package"
		done
	done
	cd - >/dev/null
done
