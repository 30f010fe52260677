#!/usr/bin/env bash
# Compares the exported API of the library with that of the last tag. Incompatible changes are an error from version 1
# on. Without a tag, it only checks that the API can be read.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export GOWORK=off
root=$PWD
work=$(mktemp -d)
trap 'git worktree remove --force "$work/tree" 2>/dev/null || true; rm -rf "$work"' EXIT

module=$(go list -m)
go build -modfile=tools/go.mod -o "$work/apidiff" golang.org/x/exp/cmd/apidiff
apidiff() { "$work/apidiff" -m "$@" 2> >(grep -v '^Ignoring internal package' >&2); }

# write writes the API of the module in directory $1 to file $2. apidiff succeeds when it has found nothing to load.
write() {
	(cd "$1" && apidiff -w "$2" "$module")
	[[ -s $2 ]]
}

write "$root" "$work/now"
tag=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null) || {
	echo "the API can be read; there is no tag to compare it with"
	exit 0
}
git worktree add --quiet --detach "$work/tree" "$tag"
write "$work/tree" "$work/old"

echo "changes since $tag:"
apidiff "$work/old" "$work/now"
incompatible=$(apidiff -incompatible "$work/old" "$work/now")
[[ -n $incompatible ]] || exit 0
if [[ $tag == v0.* ]]; then
	printf 'incompatible changes since %s: allowed before v1, but CHANGELOG.md must name them\n' "$tag"
else
	printf 'incompatible changes since %s\n' "$tag" >&2
	exit 1
fi
