// Kv stores typed values and shows what each kind of write guarantees and what its errors mean. It
// empties its namespace first.
//
//	go run ./examples/kv
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
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// Item is a stored value.
type Item struct {
	Stock int `json:"stock"`
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Fatalf("kv: %v", err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	client, stop, err := embedded.Connect(ctx, "example-kv")
	if err != nil {
		return err
	}
	defer stop()
	if _, _, err := client.KV().DeletePrefix(ctx, ""); err != nil {
		return err
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	if err := one(ctx, client.KV(), say); err != nil {
		return err
	}
	return more(ctx, client, say)
}

// outcome describes the error of a write. After any error but an unknown outcome nothing was
// changed.
func outcome(err error) string {
	switch {
	case err == nil:
		return "applied, once"
	case errors.Is(err, kv.ErrUnknownOutcome): // the answer was lost; kv.WithOnce() would find out
		return "perhaps applied"
	case errors.Is(err, kv.ErrExists):
		return "not applied, it exists"
	case errors.Is(err, kv.ErrConflict):
		return "not applied, it was changed or removed meanwhile"
	}
	return "not applied: " + err.Error()
}

func one(ctx context.Context, store *kv.Store, say func(string, ...any)) error {
	// "tea" is the key example-kv/items/tea.
	items := kv.NewTyped(store, "items", kv.JSON[Item]())
	// With WithOnce, the outcome is known even if the answer is lost.
	_, err := items.Create(ctx, "tea", Item{Stock: 10}, kv.WithOnce())
	say("create: %s", outcome(err))
	_, err = items.Create(ctx, "tea", Item{Stock: 99})
	say("create again: %s", outcome(err))
	seen, err := items.Get(ctx, "tea")
	if err != nil {
		return err
	}
	// The function is called again if another client writes meanwhile.
	tea, err := items.Update(ctx, "tea", func(i *Item) error { i.Stock--; return nil })
	say("update: %s, stock is %d", outcome(err), tea.Value.Stock)
	// Compare and swap, by revision.
	_, err = items.Replace(ctx, "tea", Item{Stock: seen.Value.Stock - 1}, seen.ModRevision)
	say("replace the state before that: %s", outcome(err))
	_, err = items.DeleteAt(ctx, "tea", seen.ModRevision)
	say("delete the state before that: %s", outcome(err))
	// By value, which may have changed and changed back.
	_, err = store.CompareAndDelete(ctx, "items/tea", []byte(`{"stock":9}`))
	say("delete the current state: %s", outcome(err))
	return nil
}

// move takes one of an item from one shelf to another: both are written, or none, also if others do
// the same.
func move(ctx context.Context, store *kv.Store, from, to string) error {
	items := kv.NewTyped(store, "items", kv.JSON[Item]())
	// The function is called again after a conflict.
	_, err := store.Transact(ctx, func(_ context.Context, tx *kv.Tx) error {
		both, err := items.In(tx).GetMany(from, to)
		if err != nil {
			return err
		}
		a, b := both[from].Value, both[to].Value // the zero Item if it is absent
		if a.Stock == 0 {
			return errSoldOut // nothing is written
		}
		a.Stock, b.Stock = a.Stock-1, b.Stock+1
		return errors.Join(items.In(tx).Put(from, a), items.In(tx).Put(to, b))
	}, kv.WithOnce())
	return err
}

var errSoldOut = errors.New("sold out")

func more(ctx context.Context, client *etcdkit.Client, say func(string, ...any)) error {
	item := func(stock int) []byte { return fmt.Appendf(nil, `{"stock":%d}`, stock) }
	// For the errors of a batch, see kv.BatchError.
	_, err := client.KV().Batch(ctx, kv.OpPut("items/milk", item(1)), kv.OpPut("items/coffee", item(5)))
	say("batch: %s", outcome(err))
	// All at once, or nothing.
	txn := client.KV().Txn(ctx).If(clientv3.Compare(clientv3.Version("items/milk"), ">", 0))
	resp, err := txn.Then(clientv3.OpDelete("items/milk"), clientv3.OpPut("archive/milk", string(item(1)))).Commit()
	if err != nil {
		return err
	}
	say("a transaction has moved milk to the archive: %t", resp.Succeeded)
	say("moved one coffee: %s", outcome(move(ctx, client.KV(), "coffee", "display")))
	say("moved one milk: %s", outcome(move(ctx, client.KV(), "milk", "display")))
	for entry, err := range client.KV().List(ctx, "") { // everything, at one revision, in order
		if err != nil {
			return err
		}
		say("listed: %s %s", entry.Key, entry.Value)
	}
	rev, err := client.KV().Put(ctx, "voucher", []byte("10 %"), kv.WithTTL(2*time.Second))
	if err != nil {
		return err
	}
	for batch, err := range client.Watcher().Watch(ctx, watch.Key("voucher"), watch.WithAfter(rev), watch.WithDeletesOnly()) {
		if err != nil {
			return err
		}
		say("put with a TTL of 2 s, and expired: %s", batch.Events[0].Key)
		break
	}
	return nil
}
