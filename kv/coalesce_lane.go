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
	freeCalls   = 4                      // of a kind go by themselves at once: as many as gain nothing from company
	sharedOps   = defaultTxnOps          // in a transaction, until a server says that it takes fewer
	sharedBytes = 512 << 10              // in a transaction: a third of what a server takes by default
	soloBytes   = 64 << 10               // an operation of more goes by itself: a few of them fill a transaction
	perOpBytes  = 64                     // what an operation is beside its key and value, generously
	patience    = 100 * time.Millisecond // with what is under way, while others wait
)

// lane shares the calls of one kind. It holds no goroutine while nothing is under way.
type lane struct {
	next     clientv3.KV
	writes   bool
	patience time.Duration

	mu      sync.Mutex
	waiting queue
	alone   int             // calls of this round that are under way by themselves
	flying  bool            // a transaction of this round is under way
	round   int             // what earlier rounds have under way has hung for too long to be waited for
	most    int             // operations in a transaction
	seats   map[seatKey]int // of the transaction that is being filled, empty between
	stall   *time.Timer     // runs while somebody waits
}

func newLane(next clientv3.KV, kind int) *lane {
	return &lane{next: next, writes: kind >= putting, patience: patience, most: sharedOps, seats: map[seatKey]int{}}
}

// do makes one call.
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

// enter takes a slot, if there is one and nobody waits for it; else it lets c, if there is one, wait.
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

// solo sends one call as it is. It has a slot, which it gives back also when next panics.
func (l *lane) solo(ctx context.Context, op clientv3.Op, round int) (clientv3.OpResponse, error) {
	defer l.back(round)
	return l.next.Do(ctx, op)
}

// back gives a slot back.
func (l *lane) back(round int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if round == l.round {
		l.alone--
	}
	l.start()
}

// notSent is the error of a call whose context ended, and for which nothing was sent that could have been applied.
func (l *lane) notSent(ctx context.Context, op clientv3.Op) error {
	err := retry.ContextError(ctx)
	if l.writes {
		return fail(verb(op), string(op.KeyBytes()), err)
	}
	return err
}

// leave is for a call whose context has ended. It reports whether its fate is known, or will be in no time.
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

// start sends what waits, unless a transaction is under way. l.mu is held.
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

// release lets a call go by itself. l.mu is held.
func (l *lane) release(c *call) {
	l.alone++
	c.slot, c.round = true, l.round
	c.sendAlone()
}

// share sends as many of those that wait as there is room for in one transaction, the first ones first. l.mu is held.
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

// fill takes calls for one transaction. l.mu is held.
func (l *lane) fill() *flight {
	n := min(l.waiting.n, l.most)
	f := &flight{calls: make([]*call, 0, n), ops: make([]clientv3.Op, 0, n)}
	room := sharedBytes
	after := l.waiting.first
	for c := after; c != nil && len(f.ops) < l.most; c = after {
		after = c.after // removing c forgets it
		seat, taken := l.seats[c.id]
		if taken && l.writes {
			continue // etcd takes one write of a key in a transaction: this one goes later
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

// fly carries out one transaction, on a goroutine of its own.
func (l *lane) fly(f *flight) {
	defer l.land(f) // whatever happens in next
	f.commit(l.next)
}

// land hands out what came of a transaction, after the next one was sent on its way.
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

// watch sees to it that what waits does not wait for ever for what hangs. l.mu is held.
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

// hurry sends what has waited for too long, and waits no more for what it has waited for.
func (l *lane) hurry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.round++
	l.alone, l.flying = 0, false
	l.start()
}
