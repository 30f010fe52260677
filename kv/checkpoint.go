package kv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// Checkpoint keeps a revision under a key, as decimal text. It has the methods that a watch.Checkpoint needs. It is a
// small value, safe for concurrent use as far as one key can be: the last Save wins.
type Checkpoint struct {
	s    *Store
	key  string
	opts []PutOption
}

// NewCheckpoint returns the checkpoint under key. The options go with every Save: WithGuard, to let only the holder of a
// lock move it.
func NewCheckpoint(s *Store, key string, o ...PutOption) Checkpoint {
	if s == nil {
		s = noStore()
	}
	return Checkpoint{s: s, key: key, opts: o}
}

// Load returns the revision saved last, 0 when none ever was, or [ErrDecode]. One RPC.
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
		return 0, c.s.fail("load checkpoint", c.key, fmt.Errorf("%w (revision %d): not a revision", ErrDecode, e.ModRevision))
	}
	return rev, nil
}

// Save stores rev. One RPC. It is a plain put: saving the same revision twice does no harm.
func (c Checkpoint) Save(ctx context.Context, rev int64) error {
	if rev < 0 {
		return c.s.fail("save checkpoint", c.key, fmt.Errorf("%w: revision %d", ErrInvalid, rev))
	}
	_, err := c.s.Put(ctx, c.key, strconv.AppendInt(nil, rev, 10), c.opts...)
	return err
}
