package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// txKeys is the number of keys that the transactions of a history are over.
const txKeys = 4

// txState is the values of all keys, "" for absent ones.
type txState [txKeys]string

// txStep is one transaction: what it has read, and what it writes.
type txStep struct {
	reads, writes map[int]string // by key; "" for an absent key, and for a delete
	unknown       bool           // the transaction may have been applied, or not
}

// transactModel is a register of several keys, on which each transaction is one atomic step.
func transactModel() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{txState{}} },
		Step: func(state, _, output any) []any {
			before, tx := state.(txState), output.(txStep)
			after := before
			for key, v := range tx.writes {
				after[key] = v
			}
			for key, v := range tx.reads {
				if before[key] != v {
					if tx.unknown {
						return []any{before}
					}
					return nil
				}
			}
			if tx.unknown {
				return []any{before, after}
			}
			return []any{after}
		},
	}
	return m.ToModel()
}

func TestTransactModel_FindsWriteSkew(t *testing.T) {
	t.Parallel()
	read := map[int]string{0: "", 1: ""}
	skew := []porcupine.Operation{
		{ClientId: 0, Call: 0, Return: 10, Output: txStep{reads: read, writes: map[int]string{0: "a"}}},
		{ClientId: 1, Call: 0, Return: 10, Output: txStep{reads: read, writes: map[int]string{1: "b"}}},
	}
	assert.False(t, porcupine.CheckOperations(transactModel(), skew))
	skew[1].Output = txStep{reads: map[int]string{0: "a", 1: ""}, writes: map[int]string{1: "b"}}
	assert.True(t, porcupine.CheckOperations(transactModel(), skew))
}

// Histories of transactions over several keys, by three clients whose connections are cut, are
// those of a single register.
func TestTransact_HistoriesAreStrictlySerializable(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	var mu sync.Mutex
	var history []porcupine.Operation
	began := time.Now()
	var all, cutting sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	unknown := 0
	for c := range 3 {
		proxy := server.Proxy(t)
		cli := etcdtest.NewClient(t, proxy.Endpoints(), func(cfg *clientv3.Config) { require.NoError(t, wire.Harden(cfg)) })
		store := etcdtest.Must(kv.New(cli, kv.WithNamespace("history")))
		cutting.Go(func() {
			tick := time.NewTicker(150 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					proxy.Cut()
				}
			}
		})
		for g := range 3 {
			all.Go(func() {
				for n := range 60 {
					var step txStep
					call := time.Since(began).Nanoseconds()
					var o []kv.WriteOption
					if g > 0 {
						o = append(o, kv.WithOnce())
					}
					_, err := store.Transact(t.Context(), randomTx(fmt.Sprintf("%d-%d-%d", c, g, n), &step), o...)
					switch {
					case errors.Is(err, kv.ErrUnknownOutcome):
						step.unknown = true
					case err != nil:
						step.writes = nil // nothing was written; the reads of the last attempt count
						step.unknown = true
					}
					op := porcupine.Operation{ClientId: c*3 + g, Call: call, Output: step, Return: time.Since(began).Nanoseconds()}
					mu.Lock()
					if step.unknown {
						unknown++
						op.Return = time.Hour.Nanoseconds() // it may be applied at any later time
						op.ClientId = 1000 + unknown
					}
					history = append(history, op)
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	stop()
	cutting.Wait()
	result := porcupine.CheckOperationsTimeout(transactModel(), history, 60*time.Second)
	assert.Equal(t, porcupine.Ok, result)
	t.Logf("%d transactions, %d of unknown outcome", len(history), unknown)
	assert.Less(t, unknown, len(history)/2)
}

// randomTx reads some keys, one by one, together or as a listing, and writes some, and notes what
// it has read and written.
func randomTx(id string, step *txStep) kv.TxFunc {
	return func(_ context.Context, tx *kv.Tx) error {
		step.reads, step.writes = map[int]string{}, map[int]string{}
		key := func(i int) string { return fmt.Sprintf("dir/%d", i) }
		switch rand.IntN(3) {
		case 0:
			i := rand.IntN(txKeys)
			e, err := tx.Get(key(i))
			if err != nil && !errors.Is(err, kv.ErrNotFound) {
				return err
			}
			step.reads[i] = string(e.Value)
		case 1:
			i, j := rand.IntN(txKeys), rand.IntN(txKeys)
			both, err := tx.GetMany(key(i), key(j))
			if err != nil {
				return err
			}
			step.reads[i], step.reads[j] = string(both[key(i)].Value), string(both[key(j)].Value)
		case 2:
			for i := range txKeys {
				step.reads[i] = ""
			}
			for e, err := range tx.List("dir/") {
				if err != nil {
					return err
				}
				step.reads[int(e.Key[len("dir/")]-'0')] = string(e.Value)
			}
		}
		for range rand.IntN(3) {
			i := rand.IntN(txKeys)
			if rand.IntN(4) == 0 {
				step.writes[i] = ""
				if err := tx.Delete(key(i)); err != nil {
					return err
				}
				continue
			}
			step.writes[i] = id
			if err := tx.Put(key(i), []byte(id)); err != nil {
				return err
			}
		}
		return nil
	}
}
