package watch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Checkpoint stores the last processed revision. kv.Checkpoint is an implementation. A row in your
// own database is better, if it is written in the same transaction as the results of processing the
// events.
type Checkpoint interface {
	// Load returns the revision saved last, or 0 if none was ever saved.
	Load(ctx context.Context) (rev int64, err error)
	// Save stores rev.
	Save(ctx context.Context, rev int64) error
}

// consumeProgressInterval is how often Consume advances its checkpoint while nothing changes.
const consumeProgressInterval = 30 * time.Second

// Consume is [Watcher.Watch] with a Checkpoint: it loads the checkpoint, watches after the loaded
// revision, calls f for each batch and saves. A batch is saved after f has returned nil, so each is
// processed at least once. If nothing was ever saved, Consume starts from now (with [WithSnapshot]:
// from the current state) and saves that revision at once. While nothing changes, the checkpoint
// advances every 30 s, or as [WithProgress] says; f is called for that only if WithProgress is
// given.
//
// Consume ends as Watch does, and with the first error of f or of the checkpoint. To stop it,
// cancel ctx, which f may do as well: the batch that f has processed is still saved, and Save may
// take 5 s for it. Consume returns [ErrInvalid] if [WithAfter] is given.
func (w *Watcher) Consume(ctx context.Context, s Selector, cp Checkpoint, f func(ctx context.Context, b Batch) error, o ...Option) error {
	if cp == nil || f == nil {
		return opError("consume", s, fmt.Errorf("%w: no checkpoint or function", errs.Invalid))
	}
	r, err := newRequest(w.ns, s, o)
	if err == nil && r.afterSet {
		err = fmt.Errorf("%w: WithAfter: the checkpoint determines the start", errs.Invalid)
	}
	if err = errors.Join(w.err, err); err != nil {
		return opError("consume", s, err)
	}
	rev, err := cp.Load(ctx)
	if err != nil {
		return opError("consume", s, fmt.Errorf("load the checkpoint: %w", err))
	}
	opts := slices.Clone(o)
	if !r.progressSet {
		opts = append(opts, WithProgress(consumeProgressInterval))
	}
	if rev != 0 {
		opts = append(opts, WithAfter(rev))
	}
	return w.consume(ctx, s, cp, opts, rev, func(b Batch) error {
		if b.Kind == Progress && !r.progressSet {
			return nil
		}
		return f(ctx, b)
	})
}

// consume calls f for each batch and saves its revision. saved is the revision saved last.
func (w *Watcher) consume(ctx context.Context, s Selector, cp Checkpoint, o []Option, saved int64, f func(b Batch) error) error {
	for b, err := range w.Watch(ctx, s, o...) {
		if err != nil {
			return err
		}
		if err := f(b); err != nil {
			return opError("consume", s, err)
		}
		if b.More || b.Revision == saved {
			continue
		}
		if err := save(ctx, cp, b.Revision); err != nil {
			return opError("consume", s, fmt.Errorf("save the checkpoint: %w", err))
		}
		saved = b.Revision
	}
	return nil
}

// finalSaveTimeout is how long Save may take after ctx has ended.
const finalSaveTimeout = 5 * time.Second

// save stores rev, even if ctx has ended, because the batch was processed.
func save(ctx context.Context, cp Checkpoint, rev int64) error {
	saveCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(finalSaveTimeout, cancel) })()
	return cp.Save(saveCtx, rev)
}
