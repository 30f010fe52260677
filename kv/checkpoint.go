package kv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// Checkpoint stores a revision under a key, as decimal text. It implements the methods that
// watch.Checkpoint requires. It is a small value and safe for concurrent use; the last Save wins.
type Checkpoint struct {
	s    *Store
	key  string
	opts []PutOption
}

// NewCheckpoint returns the checkpoint stored under key. The options apply to every Save. For
// example, WithGuard lets only the holder of a lock save.
func NewCheckpoint(s *Store, key string, o ...PutOption) Checkpoint {
	if s == nil {
		s = invalidStore()
	}
	return Checkpoint{s: s, key: key, opts: o}
}

// Load returns the revision saved last, or 0 if none was saved. If the stored text is not a
// revision, the error matches [ErrDecode]. Load costs one RPC.
func (c Checkpoint) Load(ctx context.Context) (int64, error) {
	e, err := c.s.Get(ctx, c.key)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	rev, err := strconv.ParseInt(string(e.Value), 10, 64)
	if err != nil || rev < 0 {
		return 0, c.s.opError("load checkpoint", c.key, fmt.Errorf("%w (revision %d): not a revision", ErrDecode, e.ModRevision))
	}
	return rev, nil
}

// Save stores rev. It costs one RPC. It is a plain put, so saving the same revision twice is
// harmless.
func (c Checkpoint) Save(ctx context.Context, rev int64) error {
	if rev < 0 {
		return c.s.opError("save checkpoint", c.key, fmt.Errorf("%w: revision %d", ErrInvalid, rev))
	}
	_, err := c.s.Put(ctx, c.key, strconv.AppendInt(nil, rev, 10), c.opts...)
	return err
}
