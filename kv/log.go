package kv

import (
	"context"
	"hash/maphash"
	"log/slog"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// masked logs a value as its length and a short hash, whose seed differs in each process. The hash
// tells two values apart within one log, and does not reveal them.
type masked struct {
	seed  maphash.Seed
	value []byte
}

// LogValue implements slog.LogValuer. It is called only if the record is logged.
func (m masked) LogValue() slog.Value {
	return slog.GroupValue(slog.Int("bytes", len(m.value)), slog.Uint64("hash", maphash.Bytes(m.seed, m.value)&0xffffff))
}

// logWrite logs a write before it is sent. v is nil for a delete.
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
