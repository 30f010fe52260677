package kv

import (
	"context"
	"errors"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
)

const (
	freeCalls   = 4                      // calls sent separately: so few gain nothing from sharing
	sharedOps   = defaultTxnOps          // operations per transaction, until refused
	sharedBytes = 512 << 10              // bytes per transaction: a third of the default limit
	soloBytes   = 64 << 10               // a larger operation is sent alone
	perOpBytes  = 64                     // upper estimate beside the key and value
	patience    = 100 * time.Millisecond // how long waiting calls wait for requests in flight
)

// lane batches the calls of one kind. It runs no goroutine while no call is in flight.
type lane struct {
	next     clientv3.KV
	writes   bool
	patience time.Duration

	mu      sync.Mutex
	waiting queue
	alone   int             // calls of this round in flight on their own
	flying  bool            // whether a transaction of this round is in flight
	round   int             // requests of earlier rounds hang, and are no longer waited for
	most    int             // maximum number of operations in a transaction
	seats   map[seatKey]int // of the transaction being filled, otherwise empty
	stall   *time.Timer     // runs while calls wait
}

func newLane(next clientv3.KV, kind int) *lane {
	return &lane{next: next, writes: kind >= putting, patience: patience, most: sharedOps, seats: map[seatKey]int{}}
}

// do sends one operation.
func (l *lane) do(ctx context.Context, op clientv3.Op, key string) (clientv3.OpResponse, error) {
	if round, ok := l.enter(nil); ok {
		return l.solo(ctx, op, round)
	}
	c := newCall(op, key)
	if round, ok := l.enter(c); ok {
		return l.solo(ctx, op, round)
	}
	select {
	case <-c.over:
	case <-ctx.Done():
		if !l.leave(c) {
			return clientv3.OpResponse{}, retry.ContextError(ctx)
		}
		<-c.over
	}
	switch {
	case c.panicked != nil:
		panic(c.panicked)
	case !c.unsent && errors.Is(c.err, errGivenUp) && ctx.Err() != nil:
		return clientv3.OpResponse{}, retry.ContextError(ctx)
	case !c.unsent:
		return c.resp, c.err
	case ctx.Err() != nil:
		if c.slot {
			l.back(c.round)
		}
		return clientv3.OpResponse{}, l.notSent(ctx, op)
	case c.slot:
		return l.solo(ctx, op, c.round)
	}
	return l.next.Do(ctx, op)
}

// enter takes a slot if one is free and no call waits for it. Otherwise it queues c, unless c is
// nil.
func (l *lane) enter(c *call) (round int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.alone < freeCalls && !l.flying && l.waiting.n == 0 {
		l.alone++
		return l.round, true
	}
	if c != nil {
		l.waiting.push(c)
		if l.waiting.n == 1 {
			l.watch()
		}
	}
	return 0, false
}

// solo sends one operation as it is. The caller must hold a slot, which solo returns even if next
// panics.
func (l *lane) solo(ctx context.Context, op clientv3.Op, round int) (clientv3.OpResponse, error) {
	defer l.back(round)
	return l.next.Do(ctx, op)
}

// back returns a slot.
func (l *lane) back(round int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if round == l.round {
		l.alone--
	}
	l.start()
}

// notSent returns the error of a call whose context ended before anything was sent that could have
// been applied.
func (l *lane) notSent(ctx context.Context, op clientv3.Op) error {
	err := retry.ContextError(ctx)
	if l.writes {
		return fail(verb(op), string(op.KeyBytes()), err)
	}
	return err
}

// leave handles a call whose context has ended. It reports whether the outcome of the call is known
// or will be at once.
func (l *lane) leave(c *call) (known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-c.over:
		return true
	default:
	}
	if c.flight != nil {
		return c.flight.leave()
	}
	l.waiting.remove(c)
	c.sendAlone()
	if l.waiting.n == 0 {
		l.watch()
	}
	return true
}

// start sends waiting calls unless a transaction is in flight. l.mu must be held.
func (l *lane) start() {
	switch {
	case l.waiting.n == 0 || l.flying:
		return
	case l.waiting.n+l.alone > freeCalls:
		l.share()
	default:
		for l.waiting.n > 0 {
			c := l.waiting.first
			l.waiting.remove(c)
			l.release(c)
		}
	}
	l.watch()
}

// release gives c a slot and makes its caller send it. l.mu must be held.
func (l *lane) release(c *call) {
	l.alone++
	c.slot, c.round = true, l.round
	c.sendAlone()
}

// share sends as many waiting calls as fit into one transaction, the oldest first. l.mu must be
// held.
func (l *lane) share() {
	f := l.fill()
	if len(f.calls) == 1 {
		f.calls[0].flight = nil
		l.release(f.calls[0])
		return
	}
	l.flying = true
	f.begin(l.round)
	go l.fly(f)
}

// fill moves waiting calls to a new transaction. l.mu must be held.
func (l *lane) fill() *flight {
	n := min(l.waiting.n, l.most)
	f := &flight{calls: make([]*call, 0, n), ops: make([]clientv3.Op, 0, n)}
	room := sharedBytes
	after := l.waiting.first
	for c := after; c != nil && len(f.ops) < l.most; c = after {
		after = c.after // remove clears c.after
		seat, taken := l.seats[c.id]
		if taken && l.writes {
			continue // a transaction can write a key only once: this call waits for a later one
		}
		if !taken {
			if room -= c.size; room < 0 {
				break
			}
			seat = len(f.ops)
			l.seats[c.id] = seat
			f.ops = append(f.ops, c.op)
		}
		l.waiting.remove(c)
		c.flight, c.seat, c.guest = f, seat, taken
		f.calls = append(f.calls, c)
	}
	clear(l.seats)
	return f
}

// fly sends one transaction. It runs on a goroutine of its own.
func (l *lane) fly(f *flight) {
	defer l.land(f) // even if next panics
	f.commit(l.next)
}

// land delivers the results of a transaction, after starting the next one.
func (l *lane) land(f *flight) {
	l.mu.Lock()
	f.landed = true
	if f.round == l.round {
		l.flying = false
	}
	if f.tooMany() {
		l.most = max(2, min(l.most, len(f.ops)/2))
	}
	l.start()
	l.mu.Unlock()
	f.deliver(l.writes)
}

// watch starts, resets or stops the timer that calls hurry. l.mu must be held.
func (l *lane) watch() {
	switch {
	case l.waiting.n > 0 && l.stall == nil:
		l.stall = time.AfterFunc(l.patience, l.hurry)
	case l.waiting.n > 0:
		l.stall.Reset(l.patience)
	case l.stall != nil:
		l.stall.Stop()
	}
}

// hurry starts a new round: it sends the calls that have waited too long, without waiting any
// longer for the requests in flight.
func (l *lane) hurry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.round++
	l.alone, l.flying = 0, false
	l.start()
}
