package kv

import "github.com/etcdkit/etcdkit/internal/retry"

var _ = retry.Provide(func(store any) (retry.Sender, error) {
	s := store.(*Store) //nolint:forcetypeassert // callers pass nothing else
	return retry.Sender{Engine: s.engine, KV: s.kv}, s.bad
})
