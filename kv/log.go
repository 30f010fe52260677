package kv

import (
	"context"
	"hash/maphash"
	"log/slog"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// masked prints a value as its length and a short hash, seeded anew in each process: enough to tell two values apart in
// one log, nothing to find out a value by.
type masked struct {
	seed  maphash.Seed
	value []byte
}

// LogValue is called only for records that are kept.
func (m masked) LogValue() slog.Value {
	return slog.GroupValue(slog.Int("bytes", len(m.value)), slog.Uint64("hash", maphash.Bytes(m.seed, m.value)&0xffffff))
}

// logWrite logs a write that is about to be sent. v is nil for a delete.
func (s *Store) logWrite(ctx context.Context, op, key string, v []byte) {
	if ctx == nil || !s.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []any{"op", op, "key", errs.Short(s.ns + key)}
	if v != nil {
		attrs = append(attrs, "value", masked{s.seed, v})
	}
	s.log.DebugContext(ctx, "etcd write", attrs...)
}
