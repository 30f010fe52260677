package kv

import (
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// What a test of Coalesce has to know.
const (
	FreeCalls   = freeCalls
	SharedOps   = sharedOps
	SharedBytes = sharedBytes
	SoloBytes   = soloBytes
	Patience    = patience
)

// Waiting is how many calls of a KV that Coalesce has made wait for a transaction.
func Waiting(k clientv3.KV) int {
	n := 0
	for _, l := range k.(*coalesced).lanes { //nolint:forcetypeassert // only such a KV is given
		l.mu.Lock()
		n += l.waiting.n
		l.mu.Unlock()
	}
	return n
}

// Patient makes a KV that Coalesce has made, and that nobody uses yet, wait for what hangs for an hour.
func Patient(k clientv3.KV) clientv3.KV {
	for _, l := range k.(*coalesced).lanes { //nolint:forcetypeassert // only such a KV is given
		l.patience = time.Hour
	}
	return k
}
