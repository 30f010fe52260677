// Watch keeps a copy of a prefix and continues from its checkpoint when it is started again:
// without a gap, or with an error if etcd has compacted the history meanwhile. It empties its
// namespace first. It also compacts its etcd, which affects all other clients: run it against one
// for development.
//
//	go run ./examples/watch
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Fatalf("watch: %v", err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	client, stop, err := embedded.Connect(ctx, "example-watch")
	if err != nil {
		return err
	}
	defer stop()
	store := client.KV()
	if _, _, err := store.DeletePrefix(ctx, ""); err != nil {
		return err
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	m := mirror{client.Watcher(), kv.NewCheckpoint(store, "checkpoint"), map[string]string{}, say}
	put := func(item, n string) kv.Op { return kv.OpPut("stock/"+item, []byte(n)) }
	rev, err := store.Batch(ctx, put("apples", "10"), put("pears", "5"))
	if err != nil {
		return err
	}
	say("started: the current state, at one revision")
	if err := m.follow(ctx, rev, watch.WithSnapshot()); err != nil {
		return err
	}
	if rev, err = store.Batch(ctx, put("apples", "9"), put("plums", "3"), kv.OpDelete("stock/plums")); err != nil {
		return err
	}
	say("started again: every change since the checkpoint")
	if err := m.follow(ctx, rev); err != nil {
		return err
	}
	if rev, err = store.Batch(ctx, put("apples", "8"), kv.OpDelete("stock/pears"), put("apples", "7")); err != nil {
		return err
	}
	if _, err := client.Raw().Compact(ctx, rev); err != nil {
		return err
	}
	say("started again, and etcd has compacted its history meanwhile:")
	var lost *watch.CompactedError
	if err := m.follow(ctx, rev); !errors.As(err, &lost) {
		return err
	}
	say("  revisions are gone, and the error says which: %t", lost.After < lost.Oldest)
	say("started again, for the state: one difference, deletions included")
	return m.follow(ctx, rev, watch.WithSnapshot())
}

// mirror is the copy and its revision. A real program stores both in a database, in one
// transaction.
type mirror struct {
	watcher    *watch.Watcher
	checkpoint kv.Checkpoint
	stock      map[string]string
	say        func(format string, args ...any)
}

// follow brings the copy to revision until or later. Watcher.Consume is such a loop without an end.
func (m mirror) follow(ctx context.Context, until int64, opts ...watch.Option) error {
	rev, err := m.checkpoint.Load(ctx)
	if err != nil {
		return err
	}
	if rev > 0 {
		opts = append(opts, watch.WithAfter(rev))
	}
	begun := false
	for batch, err := range m.watcher.Watch(ctx, watch.Prefix("stock/"), opts...) {
		if err != nil {
			return err
		}
		// A snapshot, or a resync that comes first, is the whole state.
		if batch.Kind != watch.Live && !begun {
			clear(m.stock)
		}
		begun = true
		for _, e := range batch.Events {
			if e.Type == watch.Delete {
				delete(m.stock, e.Key)
			} else {
				m.stock[e.Key] = string(e.Value)
			}
			m.say("  %s: %s %s -> %v", batch.Kind, e.Type, e.Key, m.stock)
		}
		if batch.More { // of the same revision
			continue
		}
		if err := m.checkpoint.Save(ctx, batch.Revision); err != nil || batch.Revision >= until {
			return err
		}
	}
	return nil
}
