#!/usr/bin/env bash
# Runs the tests of the packages on each supported version of etcd, one cell of the matrix after the other.
#
#	bash tools/matrix.sh          all versions and packages; run again, it skips the cells that have passed
#	bash tools/matrix.sh short    some tests of four packages, on etcd 3.5 and 3.6
#
# ETCDKIT_MATRIX_VERSIONS and ETCDKIT_MATRIX_PACKAGES, lists separated by spaces, select cells. The full form writes a
# line to .matrix for each cell that has passed, and the output of each to a log in the directory .matrix.logs. It removes
# the state once all cells have passed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

state=.matrix logs=.matrix.logs
form=${1:-full}
case $form in
full)
	versions=(etcd-3.7 etcd-3.6 etcd-3.5 etcd-3.5.13)
	packages=(. ./cache ./config ./discovery ./etcdtest ./kv ./lease ./lock ./watch)
	args=(-timeout 30m)
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

failed=0
for version in "${versions[@]}"; do
	use "$version"
	for package in "${packages[@]}"; do
		cell="$version $package"
		if grep -qxF "$cell" "$state"; then
			printf '%-24s passed before\n' "$cell"
			continue
		fi
		name=${package//[.\/]/}
		log=$logs/$version-${name:-root}.log
		start=$SECONDS
		run=
		[[ $form == full ]] || run=$(short_tests "$package")
		if go test -count=1 "${args[@]}" -run "$run" "$package" >"$log" 2>&1 && ! grep -q 'no tests to run' "$log"; then
			printf '%-24s passed in %d s\n' "$cell" "$((SECONDS - start))"
			printf '%s\n' "$cell" >>"$state"
		else
			failed=$((failed + 1))
			printf '%-24s FAILED in %d s\n' "$cell" "$((SECONDS - start))"
			if [[ $form == full ]]; then printf '%26s%s\n' '' "$log"; else cat "$log"; fi
			grep -E '^\s*--- FAIL' "$log" || true
		fi
	done
done
((failed == 0)) || { printf '%d cells failed; run it again to repeat them\n' "$failed"; exit 1; }
[[ $form != full || -n ${ETCDKIT_MATRIX_VERSIONS:-}${ETCDKIT_MATRIX_PACKAGES:-} ]] || rm -rf "$state" "$logs"
