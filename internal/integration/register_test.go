package integration_test

import (
	"context"
	"math"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// access is a read or a write of one key that holds a number.
type access struct {
	write bool
	value int
}

// register is the model of one key: a read returns what was written last, 0 at first.
func register() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return 0 },
		Step: func(state, input, output any) (bool, any) {
			if in := input.(access); in.write {
				return true, in.value
			}
			return output == state, state
		},
	}
}

// history records what clients have asked of a key, and what they were told.
type history struct {
	start time.Time

	mu         sync.Mutex
	operations []porcupine.Operation
	clients    int
}

func (h *history) newClient() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clients++
	return h.clients
}

func (h *history) add(op porcupine.Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.operations = append(h.operations, op)
}

// check fails the test unless some order of the operations explains all answers.
func (h *history) check(t *testing.T) {
	t.Helper()
	require.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(register(), h.operations, time.Minute))
}

// use reads and writes key until both have succeeded n times since the call. Values are unique.
func (h *history) use(ctx context.Context, kv clientv3.KV, key string, n int) error {
	id := h.newClient()
	for reads, writes := 0, 0; reads < n || writes < n; {
		op := porcupine.Operation{ClientId: id, Call: int64(time.Since(h.start))}
		in := access{write: reads > writes, value: id*1_000_000 + reads}
		got, err := apply(ctx, kv, key, in)
		op.Input, op.Output, op.Return = in, got, int64(time.Since(h.start))
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && in.write:
			writes++
		case err == nil:
			reads++
		case in.write: // it may take effect at any time from now on, and this client waits for it no longer
			op.Return, id = math.MaxInt64, h.newClient()
		default:
			continue // a read that told nothing
		}
		h.add(op)
	}
	return nil
}

func apply(ctx context.Context, kv clientv3.KV, key string, in access) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if in.write {
		_, err := kv.Put(ctx, key, strconv.Itoa(in.value))
		return 0, err
	}
	resp, err := kv.Get(ctx, key)
	if err != nil || len(resp.Kvs) == 0 {
		return 0, err
	}
	return strconv.Atoi(string(resp.Kvs[0].Value))
}

func TestTheRegisterModelTellsRightFromWrong(t *testing.T) {
	t.Parallel()
	write := func(id, value int, call, ret int64) porcupine.Operation {
		return porcupine.Operation{ClientId: id, Input: access{write: true, value: value}, Output: 0, Call: call, Return: ret}
	}
	read := func(id, value int, call, ret int64) porcupine.Operation {
		return porcupine.Operation{ClientId: id, Input: access{}, Output: value, Call: call, Return: ret}
	}
	tests := map[string]struct {
		operations []porcupine.Operation
		ok         bool
	}{
		"a read of what was written":                {[]porcupine.Operation{write(1, 7, 0, 1), read(2, 7, 2, 3)}, true},
		"a read of what was overwritten":            {[]porcupine.Operation{write(1, 7, 0, 1), write(1, 8, 2, 3), read(2, 7, 4, 5)}, false},
		"a read of what is being written":           {[]porcupine.Operation{write(1, 7, 0, 9), read(2, 0, 1, 2), read(2, 7, 3, 4)}, true},
		"a write of unknown outcome that is seen":   {[]porcupine.Operation{write(1, 7, 0, math.MaxInt64), read(2, 7, 5, 6)}, true},
		"a write of unknown outcome that is undone": {[]porcupine.Operation{write(1, 7, 0, math.MaxInt64), read(2, 7, 5, 6), read(2, 0, 7, 8)}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tc.ok, porcupine.CheckOperations(register(), tc.operations))
		})
	}
}
