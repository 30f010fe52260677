package cache

import (
	"context"

	"github.com/etcdkit/etcdkit/kv"
)

// teller is a typed store that tells of its writes.
type teller[T any] interface {
	OnWrite(f func(ctx context.Context, key string, rev int64)) kv.Typed[T]
}

// hooked returns the typed store of dir. f is called after each write through it, before that returns, with the revision of the
// write, or 0 where its outcome is unknown.
func hooked[T any](s *kv.Store, dir string, codec kv.Codec[T], f func(ctx context.Context, key string, rev int64)) kv.Typed[T] {
	t := kv.NewTyped(s, dir, codec)
	if tells, ok := any(t).(teller[T]); ok {
		return tells.OnWrite(f)
	}
	return t
}
