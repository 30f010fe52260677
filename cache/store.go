package cache

import (
	"context"

	"github.com/etcdkit/etcdkit/kv"
)

// withWriteHook returns the typed store of dir. f is called after each write through it, before the
// write returns, with the revision of the write, or 0 if the resulting state of the key is unknown.
func withWriteHook[T any](s *kv.Store, dir string, codec kv.Codec[T], f func(ctx context.Context, key string, rev int64)) kv.Typed[T] {
	return kv.NewTyped(s, dir, codec).OnWrite(f)
}
