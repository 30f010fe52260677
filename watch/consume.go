package watch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Checkpoint keeps the last processed revision; kv.Checkpoint is one, a row in your database, written in the same
// transaction as what you have made of the events, is the better one.
type Checkpoint interface {
	// Load returns what was saved last, 0 if nothing ever was.
	Load(ctx context.Context) (rev int64, err error)
	// Save stores rev.
	Save(ctx context.Context, rev int64) error
}

// consumeProgress is how often Consume moves its checkpoint on a quiet prefix.
const consumeProgress = 30 * time.Second

// Consume is [Watcher.Watch] with a Checkpoint: it loads, watches after what it has loaded, calls f and saves. A batch is
// saved after f has returned nil, so each is processed at least once. Where nothing was ever saved it starts from now on
// (with [WithSnapshot]: from the current state), and saves that at once. On a quiet prefix the checkpoint moves every
// 30 s, or as [WithProgress] says, and f is not called for that unless WithProgress asks for it.
//
// It ends as Watch does, and with the first error of f or of the checkpoint. To stop it, end ctx, from within f as well: what
// f has processed is saved still, for which Save is given 5 s. [WithAfter] does not go with it.
func (w *Watcher) Consume(ctx context.Context, s Selector, cp Checkpoint, f func(ctx context.Context, b Batch) error, o ...Option) error {
	if ctx == nil || cp == nil || f == nil {
		return fail("consume", s, fmt.Errorf("%w: no context, checkpoint or function", errs.Invalid))
	}
	r, err := newRequest(w.ns, s, o)
	if err == nil && r.afterSet {
		err = fmt.Errorf("%w: WithAfter: the checkpoint says where to start", errs.Invalid)
	}
	if err = errors.Join(w.bad, err); err != nil {
		return fail("consume", s, err)
	}
	rev, err := cp.Load(ctx)
	if err != nil {
		return fail("consume", s, fmt.Errorf("load the checkpoint: %w", err))
	}
	opts := slices.Clone(o)
	if !r.everySet {
		opts = append(opts, WithProgress(consumeProgress))
	}
	if rev != 0 {
		opts = append(opts, WithAfter(rev))
	}
	return w.consume(ctx, s, cp, opts, rev, func(b Batch) error {
		if b.Kind == Progress && !r.everySet {
			return nil
		}
		return f(ctx, b)
	})
}

// consume processes and saves.
func (w *Watcher) consume(ctx context.Context, s Selector, cp Checkpoint, o []Option, saved int64, f func(b Batch) error) error {
	for b, err := range w.Watch(ctx, s, o...) {
		if err != nil {
			return err
		}
		if err := f(b); err != nil {
			return fail("consume", s, err)
		}
		if b.More || b.Revision == saved {
			continue
		}
		if err := save(ctx, cp, b.Revision); err != nil {
			return fail("consume", s, fmt.Errorf("save the checkpoint: %w", err))
		}
		saved = b.Revision
	}
	return nil
}

// lastSave is how long a checkpoint may take to save what was processed when ctx ended.
const lastSave = 5 * time.Second

// save stores rev. What was processed is worth saving also when ctx has ended.
func save(ctx context.Context, cp Checkpoint, rev int64) error {
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastSave, stop) })()
	return cp.Save(own, rev)
}
