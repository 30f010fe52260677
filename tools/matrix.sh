#!/usr/bin/env bash
# Runs the tests of the packages on each supported version of etcd, one cell of the matrix after the other.
#
#	bash tools/matrix.sh          all versions and packages, and an upgrade; run again, it skips what has passed
#	bash tools/matrix.sh short    some tests of four packages, on etcd 3.5 and 3.6
#
# ETCDKIT_MATRIX_VERSIONS and ETCDKIT_MATRIX_PACKAGES, lists separated by spaces, select cells. The full form writes a
# line to .matrix for each cell that has passed, and the output of each to a log in the directory .matrix.logs. Once all
# cells have passed, it writes docs/reliability.md and removes the state.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

state=.matrix logs=.matrix.logs
form=${1:-full}
case $form in
full)
	versions=(etcd-3.7 etcd-3.6 etcd-3.5 etcd-3.5.13)
	packages=(. ./cache ./config ./discovery ./etcdtest ./kv ./lease ./lock ./watch ./internal/integration)
	args=(-timeout 30m -v)
	touch "$state"
	;;
short)
	versions=(etcd-3.6 etcd-3.5)
	packages=(./kv ./lease ./lock ./watch)
	args=(-timeout 5m)
	state=/dev/null
	logs=$(mktemp -d)
	trap 'rm -rf "$logs"' EXIT
	;;
*)
	printf 'usage: %s [short]\n' "$0" >&2
	exit 2
	;;
esac
[[ -z ${ETCDKIT_MATRIX_VERSIONS:-} ]] || read -ra versions <<<"$ETCDKIT_MATRIX_VERSIONS"
[[ -z ${ETCDKIT_MATRIX_PACKAGES:-} ]] || read -ra packages <<<"$ETCDKIT_MATRIX_PACKAGES"
mkdir -p "$logs"

# short_tests prints the tests of the short form: those whose result depends most on what the server does.
short_tests() {
	case $1 in
	./kv) printf 'Transact_(Bank|Applies|Reads|Runs|Read)|Update|WithOnce|List_|Page_|TestNamespace_|WithTTL|TestCreate_|TestReplace_|CompareAndSwap|TestDelete' ;;
	./lease) printf 'Manager_(OpenAndClose|DirectCalls|Describe|Repeats)|Key_(Exists|Restores|Operations)|Session_(Verify|IsLost|Guard|Context)' ;;
	./lock) printf 'Mutex_|Election_|Observe|Semaphore|Barrier_' ;;
	./watch) printf 'Watcher_(Delivers|Snapshot|StateWatch|EventsWatch|WithAfter|Filters|Shares|Survives|Returns|Progress|Requests)' ;;
	esac
}

# use selects the servers of the tests that follow. Version 3.7 is the one that tests run by default.
use() {
	unset ETCDKIT_TEST_ETCD ETCDKIT_TEST_ENDPOINTS
	[[ $1 == etcd-3.7 ]] || ETCDKIT_TEST_ETCD=$(bash tools/servers.sh "$1")
	[[ -z ${ETCDKIT_TEST_ETCD:-} ]] || export ETCDKIT_TEST_ETCD
}

# exact prints the exact version of a server.
exact() {
	local module=internal/servers/$1
	[[ $1 != etcd-3.7 ]] || module=examples/devetcd
	(cd "$module" && GOWORK=off go list -m -f '{{.Version}}' go.etcd.io/etcd/server/v3) | sed 's/^v//'
}

# top prints how many tests, without subtests, a log says have passed or were skipped.
top() { grep -c "^--- $1: " "$2" || true; }

# cell runs the tests of a package on a version, unless they have passed before. Further arguments are those of go test.
cell() {
	local version=$1 package=$2 server=$3 start=$SECONDS
	local name=${package//[.\/]/} cell="$1 $2" log
	shift 3
	if grep -qF "$version"$'\t'"$package"$'\t' "$state"; then
		printf '%-32s passed before\n' "$cell"
		return
	fi
	log=$logs/$version-${name:-root}.log
	if go test -count=1 "${args[@]}" "$@" "$package" >"$log" 2>&1 && ! grep -q 'no tests to run' "$log"; then
		printf '%-32s passed in %d s\n' "$cell" "$((SECONDS - start))"
		printf '%s\t%s\t%s\t%d\t%d\t%d\n' "$version" "$package" "$server" "$(top PASS "$log")" "$(top SKIP "$log")" "$((SECONDS - start))" >>"$state"
		return
	fi
	failed=$((failed + 1))
	printf '%-32s FAILED in %d s\n' "$cell" "$((SECONDS - start))"
	if [[ $form == full ]]; then printf '%34s%s\n' '' "$log"; else cat "$log"; fi
	grep -E '^\s*--- FAIL' "$log" || true
}

failed=0
for version in "${versions[@]}"; do
	use "$version"
	server=$(exact "$version")
	for package in "${packages[@]}"; do
		run=
		[[ $form == full ]] || run=$(short_tests "$package")
		# The baseline of TestCounts is that of the newest version.
		cell "$version" "$package" "$server" -run "$run" -skip '^TestCounts$'
	done
done
selected=${ETCDKIT_MATRIX_VERSIONS:-}${ETCDKIT_MATRIX_PACKAGES:-}
if [[ $form == full && -z $selected ]]; then
	use etcd-3.7
	ETCDKIT_UPGRADE=1 cell upgrade ./internal/integration '3.5 to 3.6 to 3.7' -run '^TestRollingUpgrade$'
fi
((failed == 0)) || { printf '%d cells failed; run it again to repeat them\n' "$failed"; exit 1; }
[[ $form == full && -z $selected ]] || exit 0
ETCDKIT_RELIABILITY=write ETCDKIT_MATRIX_RESULTS=$PWD/$state go test -count=1 -run '^TestReliability_Record$' ./internal/integration
rm -rf "$state" "$logs"
