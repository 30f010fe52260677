//nolint:paralleltest // each test has a cluster, and the machine, to itself
package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

// newLocker is a locker of a client of its own, closed when the test ends.
func newLocker(t *testing.T, endpoints []string, ttl time.Duration) (*lock.Locker, *kv.Store) {
	t.Helper()
	c := open(t, endpoints)
	l := etcdtest.Must(lock.New(c, lock.WithTTL(ttl)))
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	return l, c.KV()
}

// taking is how a mutex or a leadership is had.
type taking func(ctx context.Context) (*lock.Held, error)

// diary is the history of one lock, or of one election, with a counter below dir that its holders
// count up.
type diary struct {
	start    time.Time
	dir      string
	released string               // what a release is: released or handed
	journal  *journal             // nil in a test of one process
	who      string               // begins the IDs of this process
	tolerate func(err error) bool // errors of a lock call that are no finding besides a lost place in the queue

	mu     sync.Mutex
	moves  []porcupine.Operation
	open   map[string]porcupine.Operation // writes of unknown outcome, by what they write
	failed map[string]bool                // who was not granted it
	taken  map[string]int64               // who was, and the token
	values map[int64]string               // what leaders were seen with, by their tokens
	lost   int                            // holds that were
	ids    int
}

func newDiary(dir, released string) *diary {
	return &diary{start: time.Now(), dir: dir, released: released, open: map[string]porcupine.Operation{}, failed: map[string]bool{}, taken: map[string]int64{}, values: map[int64]string{}}
}

func (d *diary) clock() int64 { return int64(time.Since(d.start)) }

func (d *diary) id() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ids++
	return fmt.Sprint(d.who, "id", d.ids)
}

func (d *diary) note(m move, call, ret int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moves = append(d.moves, porcupine.Operation{Input: m, Call: call, Return: ret})
	d.journal.write(journalLine{Kind: "move", Name: d.dir, Move: &m, Call: call, Return: ret})
}

// hold takes it once, counts up under its guard, and gives it back. Sometimes it counts once more
// when it has done so.
func (d *diary) hold(t *testing.T, s *kv.Store, who string, take taking) {
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	call := d.clock()
	line := d.journal.begin(journalLine{Kind: "take", Name: d.dir, Who: who, Call: call})
	h, err := take(ctx)
	if err != nil {
		line.Failed = err.Error()
		d.journal.end(line)
		if d.tolerate == nil || !d.tolerate(err) {
			assert.ErrorIs(t, err, lock.ErrLost, "a place in the queue can only be lost")
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.failed[who] = true
		return
	}
	d.note(move{Kind: granted, Token: h.Token()}, call, d.clock())
	d.mu.Lock()
	d.taken[who] = h.Token()
	d.mu.Unlock()
	line.Move = &move{Kind: granted, Token: h.Token()}
	d.journal.end(line)
	var end atomic.Int64 // when it was known to be over
	over := func() { end.CompareAndSwap(0, d.clock()) }
	forget := context.AfterFunc(h.Context(), over)
	defer forget()

	stay := rand.N(5 * time.Millisecond)
	if rand.IntN(100) == 0 {
		stay = time.Second // long enough for a loss
	}
	spend(t, stay)
	d.count(ctx, t, s, h, over)
	call = d.clock()
	over()
	d.journal.write(journalLine{Kind: "release", Name: d.dir, Rev: h.Token(), Call: call})
	err = h.Release(ctx)
	if err == nil {
		d.note(move{Kind: d.released, Token: h.Token()}, call, d.clock())
	} else {
		assert.True(t, errors.Is(err, lock.ErrLost) || isUnknown(err) || d.tolerate != nil && d.tolerate(err), "%v", err)
		d.note(move{Kind: ceased, Token: h.Token()}, end.Load(), end.Load())
		d.mu.Lock()
		d.lost++
		d.mu.Unlock()
	}
	if rand.IntN(4) == 0 {
		d.count(ctx, t, s, h, over)
	}
}

// count reads the counter and writes the next number under the guard of h. Nothing but the lock
// keeps others from doing the same in between.
func (d *diary) count(ctx context.Context, t *testing.T, s *kv.Store, h *lock.Held, over func()) {
	e, err := s.Get(ctx, d.dir+counterKey)
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return // no write without a read
	}
	n, _, err := parseCount(string(e.Value))
	assert.NoError(t, err)
	m := move{counted, h.Token(), n + 1}
	value := formatCount(m.Count, d.id())
	opts := []kv.PutOption{kv.WithGuard(h)}
	if rand.IntN(2) == 0 {
		opts = append(opts, kv.WithOnce())
	}
	call := d.clock()
	line := d.journal.begin(journalLine{Kind: "write", Name: d.dir, Who: value, Move: &m, Call: call})
	_, err = s.Put(ctx, d.dir+counterKey, []byte(value), opts...)
	line.Return, line.Unknown = d.clock(), isUnknown(err)
	if err != nil {
		line.Failed = err.Error()
	}
	d.journal.end(line)
	switch {
	case err == nil:
		d.note(m, call, d.clock())
	case isUnknown(err):
		assert.True(t, len(opts) == 1 || isFull(err), "it has an operation slot: %v", err)
		d.mu.Lock()
		d.open[value] = porcupine.Operation{Input: m, Call: call, Return: math.MaxInt64}
		d.mu.Unlock()
	case errors.Is(err, lock.ErrLost):
		over() // its holder has been told so
		d.note(move{Kind: refusal, Token: h.Token()}, call, d.clock())
	}
}

// check fails the test unless some order explains what everybody was told, and etcd's own history
// agrees.
func (d *diary) check(t *testing.T, changes []change) {
	t.Helper()
	n, grants := 0, map[int64]bool{}
	for _, ch := range changes {
		to, _, err := parseCount(ch.value)
		require.NoError(t, err)
		assert.Equal(t, n+1, to, "each one counts up by one")
		n = to
		if op, ok := d.open[ch.value]; ok { // it has happened, at the latest when it was seen
			op.Return = max(ch.seen, op.Call)
			d.moves = append(d.moves, op)
		}
	}
	var settled []porcupine.Operation
	seenOnly := 0
	for _, op := range d.moves {
		if m := op.Input.(move); m.Kind == granted {
			grants[m.Token] = true
		}
	}
	for _, op := range d.moves {
		if m := op.Input.(move); m.Kind == observed && m.Token != 0 && !grants[m.Token] {
			// It led without ever having been told so. If its lease was lost before it knew that it had
			// enqueued, it has enqueued again, with another session. A member that was frozen may also
			// enqueue it again after it has resigned; that key is swept.
			seenOnly++
			who := d.values[m.Token]
			assert.True(t, d.failed[who] || d.taken[who] != 0, "%+v, %s", m, who)
			continue
		}
		settled = append(settled, op)
	}
	t.Logf("%s: counted to %d; %d holds and %d places lost, %d observations of candidates that had lost theirs",
		d.dir, n, d.lost, len(d.failed), seenOnly)
	checkMoves(t, settled)
	if d.tolerate == nil {
		assert.Greater(t, n, len(grants)/2)
	}
}

// look asks who leads.
func (d *diary) look(t *testing.T, e *lock.Election) {
	call := d.clock()
	led, err := e.Leader(t.Context())
	if err != nil && !errors.Is(err, lock.ErrNoLeader) {
		return // it told nothing
	}
	d.note(move{Kind: observed, Token: led.Token}, call, d.clock())
	d.journal.write(journalLine{Kind: "leader", Name: d.dir, Rev: led.Token, Who: led.Value})
	d.mu.Lock()
	d.values[led.Token] = led.Value
	d.mu.Unlock()
	spend(t, 10*time.Millisecond)
}

// Contenders for a mutex, candidates, and onlookers, in three clients whose sessions are short
// enough for some to be lost each time that the leader is. One of the clients also loses its
// connections all the time.
func TestLock_HistoryIsValidUnderLeaderLoss(t *testing.T) {
	cluster := etcdtest.StartCluster(t, 3)
	mutex, election := newDiary("suite/m/", handed), newDiary("suite/e/", released)
	direct := cluster.Client(t)
	mutexTruth := newChronicle(t, direct, mutex.dir, mutex.clock)
	electionTruth := newChronicle(t, direct, election.dir, election.clock)
	var lockers [3]*lock.Locker
	var stores [3]*kv.Store
	shaky := newLink(t, cluster)
	for i, endpoints := range [][]string{cluster.Endpoints(), cluster.Endpoints(), shaky.endpoints()} {
		lockers[i], stores[i] = newLocker(t, endpoints, shortTTL)
	}
	calm := shaky.cutting(t, 1500*time.Millisecond)
	defer calm()
	crowd := spectate(t, lockers[0].Election("e"))
	var mu sync.Mutex
	candidates := map[string]bool{}
	faults := []func(*testing.T, *etcdtest.Cluster){killLeader, freezeLeader}
	next, most := 0, scale(2, math.MaxInt)
	s := storm{workers: 24, rounds: scale(400, 20_000), faults: scale(2, 40), every: 2500 * time.Millisecond}
	rounds, _ := s.run(t, func() {
		if next < most { // then those who wait have their turns
			faults[next%len(faults)](t, cluster)
			next++
		}
	}, func(w int) {
		l, store := lockers[w%3], stores[w%3]
		switch w % 4 {
		case 0, 1:
			mutex.hold(t, store, mutex.id(), l.Mutex("m").Lock)
		case 2:
			who := election.id()
			mu.Lock()
			candidates[who] = true
			mu.Unlock()
			election.hold(t, store, who, func(ctx context.Context) (*lock.Held, error) {
				led, err := l.Election("e").Campaign(ctx, who)
				if err != nil {
					return nil, err
				}
				return led.Held, nil
			})
		case 3:
			election.look(t, l.Election("e"))
		}
	})
	calm()
	t.Logf("%d rounds, the leader lost %d times", rounds, next)
	crowd.check(t, candidates)
	mutex.check(t, mutexTruth.read(t))
	election.check(t, electionTruth.read(t))
	for _, dir := range []string{"locks/", "elections/"} {
		assertEmpty(t, direct, dir)
	}
}
