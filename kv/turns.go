package kv

import (
	"context"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// turns queues the updates of a key by stores derived from one another, so that they do not
// conflict on the server. Each update passes what it knows of the key to the next. The zero value
// is ready for use.
type turns struct {
	conflicts atomic.Uint64

	mu sync.Mutex
	m  map[string]*turn
}

// turnsInARow is the number of turns after which the key is read again. Without the delay of this
// read, other processes would always lose against the updates of this one.
const turnsInARow = 32

// turn is the queue of one key. It exists while a caller holds or awaits the turn.
type turn struct {
	users int
	token chan struct{} // full while the turn is taken

	// known and cur hold the state of the key that the previous holder passed on.
	taken int // number of turns so far
	known bool
	cur   *mvccpb.KeyValue // nil: does not exist
}

// take waits for the turn on key, or for the end of ctx.
func (t *turns) take(ctx context.Context, key string) (*turn, error) {
	t.mu.Lock()
	one := t.m[key]
	if one == nil {
		if t.m == nil {
			t.m = make(map[string]*turn)
		}
		one = &turn{token: make(chan struct{}, 1)}
		t.m[key] = one
	}
	one.users++
	t.mu.Unlock()
	select {
	case one.token <- struct{}{}:
		return one, nil
	case <-ctx.Done():
		t.leave(key, one)
		return nil, ctx.Err()
	}
}

// tryTake takes the turn on key. It returns nil if the turn is taken.
func (t *turns) tryTake(key string) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.m[key]
	if one == nil {
		if t.m == nil {
			t.m = make(map[string]*turn)
		}
		one = &turn{token: make(chan struct{}, 1)}
	}
	select {
	case one.token <- struct{}{}:
		one.users++
		t.m[key] = one
		return one
	default:
		return nil
	}
}

// pass ends the turn and stores what is known of the key.
func (t *turns) pass(key string, one *turn, known bool, cur *mvccpb.KeyValue) {
	one.taken++
	one.known, one.cur = known && one.taken%turnsInARow != 0, cur
	<-one.token
	t.leave(key, one)
}

// leave removes the queue of the key, and its state, if it has no other users.
func (t *turns) leave(key string, one *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one.users--
	if one.users == 0 {
		delete(t.m, key)
	}
}
