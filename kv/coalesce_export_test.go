package kv

import (
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Constants for the tests of Coalesce.
const (
	MaxDirectCalls   = maxDirectCalls
	MaxSharedOps     = maxSharedOps
	MaxSharedBytes   = maxSharedBytes
	MaxSharedOpBytes = maxSharedOpBytes
	MaxBatchWait     = maxBatchWait
)

// WaitingCalls returns the number of calls of a KV of Coalesce that wait for a transaction.
func WaitingCalls(k clientv3.KV) int {
	n := 0
	for _, l := range k.(*coalescingKV).batchers { //nolint:forcetypeassert // callers pass nothing else
		l.mu.Lock()
		n += l.waiting.n
		l.mu.Unlock()
	}
	return n
}

// WithoutFlush makes calls of a KV of Coalesce wait for hanging requests for an hour. k must not be
// in use yet.
func WithoutFlush(k clientv3.KV) clientv3.KV {
	for _, l := range k.(*coalescingKV).batchers { //nolint:forcetypeassert // callers pass nothing else
		l.maxWait = time.Hour
	}
	return k
}
