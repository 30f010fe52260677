package kv

import (
	"context"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// turns lets those who update the same key through stores made from one another go one after the other, instead of
// fighting for it on the server, and hands what is known of the key from one to the next. The zero value is ready for use.
type turns struct {
	conflicts atomic.Uint64

	mu sync.Mutex
	m  map[string]*turn
}

// turnsInARow is how many turns may go on from what the last one wrote. Reading the key again after them lets others in,
// who would otherwise always come too late.
const turnsInARow = 32

// turn is one key's queue. It exists while somebody holds or awaits it.
type turn struct {
	users int
	token chan struct{} // full while the turn is taken

	// What the last one left: the state of the key as etcd gave it at some time during the queue.
	taken int // turns so far
	known bool
	cur   *mvccpb.KeyValue // nil: absent
}

// take waits for the turn on key. It ends with ctx.
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

// tryTake takes the turn on key, and returns nil if it is taken.
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

// pass ends the turn and says what is now known of the key.
func (t *turns) pass(key string, one *turn, known bool, cur *mvccpb.KeyValue) {
	one.taken++
	one.known, one.cur = known && one.taken%turnsInARow != 0, cur
	<-one.token
	t.leave(key, one)
}

// leave forgets the key with its last user, and what was known of it.
func (t *turns) leave(key string, one *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one.users--
	if one.users == 0 {
		delete(t.m, key)
	}
}
