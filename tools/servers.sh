#!/usr/bin/env bash
# Builds the etcd servers in internal/servers, or the named ones, in the user's cache directory and prints their paths.
# go build skips a server that is up to date.
#
#	ETCDKIT_TEST_ETCD=$(bash tools/servers.sh etcd-3.5) go test ./watch
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../internal/servers"
export GOWORK=off GOFLAGS= CGO_ENABLED=0

case $(go env GOOS) in
darwin) cache=$HOME/Library/Caches ;;
*) cache=${XDG_CACHE_HOME:-$HOME/.cache} ;;
esac
cache=$cache/etcdkit/servers
mkdir -p "$cache"
(($# > 0)) || set -- etcd-*
for name; do
	(cd "$name" && go build -trimpath -buildvcs=false -o "$cache/$name" . >&2)
	printf '%s\n' "$cache/$name"
done
