#!/usr/bin/env bash
# Compares the exported API of the library with that of the last tag.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export GOWORK=off
root=$PWD

tag=$(git describe --tags --abbrev=0 2>/dev/null) || { echo "no tag to compare with"; exit 0; }
old=$(mktemp -d)
trap 'git worktree remove --force "$old/tree" 2>/dev/null || true; rm -rf "$old"' EXIT
git worktree add --quiet --detach "$old/tree" "$tag"

apidiff() { go tool -modfile="$root/tools/go.mod" apidiff "$@"; }
module=$(go list -m)
(cd "$old/tree" && apidiff -m -w "$old/api" "$module")
apidiff -m -w "$old/api-now" "$module"
echo "changes since $tag:"
apidiff -m "$old/api" "$old/api-now"
