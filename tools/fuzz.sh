#!/usr/bin/env bash
# Runs the fuzz targets of all modules for the given time each.
#
#	bash tools/fuzz.sh 20s                              all targets
#	bash tools/fuzz.sh 30m FuzzGateway_RawRequests      one target
#
# With ETCDKIT_RELIABILITY=write, it then writes docs/reliability.md. ETCDKIT_FUZZ_COMMAND is the command that the page names.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
time=${1:-20s} only=${2:-Fuzz.*}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
touch "$work/results"

# go test -fuzz instruments all packages, dependencies and the standard library too, which takes minutes to compile.
instrument='github.com/etcdkit/...=-d=libfuzzer'
corpus=$(go env GOCACHE)/fuzz # where go test -fuzz keeps inputs of interest

# targets prints the packages, dirs and names of the targets of the module in the working directory.
targets() {
	local package dir file
	GOWORK=off go list -f '{{$p := .}}{{range .TestGoFiles}}{{$p.ImportPath}} {{$p.Dir}} {{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$p.ImportPath}} {{$p.Dir}} {{.}}{{"\n"}}{{end}}' ./... |
		while read -r package dir file; do
			[[ -z $file ]] || sed -nE "s!^func ($only)\\(f \\*testing\\.F\\).*!$package $dir \\1!p" "$dir/$file"
		done
}

for module in . examples internal/integration; do
	cd "$root/$module"
	targets >"$work/targets"
	while read -r package dir target; do
		printf '==> %s %s\n' "$package" "$target"
		binary=$work/${package//\//_}
		cd "$dir" # where a failing input is left, in testdata
		[[ -e $binary ]] || GOWORK=off go test -c -gcflags="$instrument" -o "$binary" . </dev/null
		"$binary" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$time" -test.fuzzcachedir "$corpus/$package" </dev/null | tee "$work/log"
		inputs=$(sed -nE 's/.*execs: ([0-9]+) .*/\1/p' "$work/log" | tail -n 1)
		printf '%s\t%s\t%d\t%s\n' "$target" "$time" "$inputs" "${ETCDKIT_FUZZ_COMMAND:-make fuzz FUZZTIME=$time}" >>"$work/results"
	done <"$work/targets"
done
[[ -s $work/results ]] || { printf 'no target %s\n' "$only" >&2; exit 2; }
[[ ${ETCDKIT_RELIABILITY:-} == write ]] || exit 0
cd "$root"
ETCDKIT_FUZZ_RESULTS=$work/results go test -count=1 -run '^TestReliability_Record$' ./internal/integration
