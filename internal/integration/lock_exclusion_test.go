//nolint:paralleltest // each test has a cluster, and the machine, to itself
package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

const shortTTL = 2 * time.Second // no server with default timing makes less of it

// taken is a lock that somebody has, of whatever library.
type taken struct {
	token   int64
	over    <-chan struct{} // when he is told that he has it no more
	release func(ctx context.Context) error
}

// taker takes the lock of a name, and waits for it.
type taker func(ctx context.Context, name string) (taken, error)

// newTaker is how users of this library do it: all names on the session of one locker.
func newTaker(t *testing.T, endpoints []string) taker {
	t.Helper()
	l, _ := newLocker(t, endpoints, shortTTL)
	return func(ctx context.Context, name string) (taken, error) {
		h, err := l.Mutex(name).Lock(ctx)
		if err != nil {
			return taken{}, err
		}
		return taken{h.Token(), h.Context().Done(), h.Release}, nil
	}
}

// officialTaker is how users of client/v3 take locks.
type officialTaker struct {
	cli      *clientv3.Client
	dir      string // of the locks, ends in "/"
	ttl      time.Duration
	election bool // leaderships instead of mutexes
}

// take returns a taker with a session for each name. A session that has failed in any way is left
// to expire, and replaced.
func (o officialTaker) take() taker {
	cli := o.cli
	var mu sync.Mutex
	sessions := map[string]*concurrency.Session{}
	session := func(ctx context.Context, name string) (*concurrency.Session, error) {
		mu.Lock()
		s := sessions[name]
		mu.Unlock()
		if s != nil {
			select {
			case <-s.Done():
			default:
				return s, nil
			}
		}
		ttl := int64(o.ttl / time.Second)
		grant, err := cli.Grant(ctx, ttl)
		if err != nil {
			return nil, err
		}
		if s, err = concurrency.NewSession(cli, concurrency.WithLease(grant.ID), concurrency.WithTTL(int(ttl))); err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		sessions[name] = s
		return s, nil
	}
	return func(ctx context.Context, name string) (taken, error) {
		s, err := session(ctx, name)
		if err != nil {
			return taken{}, err
		}
		if o.election {
			e := concurrency.NewElection(s, o.dir+name)
			if err := e.Campaign(ctx, "me"); err != nil {
				s.Orphan()
				return taken{}, err
			}
			return taken{e.Rev(), s.Done(), func(ctx context.Context) error {
				err := e.Resign(ctx)
				if err != nil {
					s.Orphan()
				}
				return err
			}}, nil
		}
		m := concurrency.NewMutex(s, o.dir+name)
		if err := m.Lock(ctx); err != nil {
			s.Orphan()
			return taken{}, err
		}
		return taken{m.Header().Revision, s.Done(), func(ctx context.Context) error {
			err := m.Unlock(ctx)
			if err != nil {
				s.Orphan()
			}
			return err
		}}, nil
	}
}

// contend takes a name again and again, and logs for how long it has had it.
func contend(ctx context.Context, t *testing.T, log *stays, name string, take taker) {
	for ctx.Err() == nil {
		h, err := take(ctx, name)
		from := time.Now()
		if err != nil {
			spend(t, 20*time.Millisecond+rand.N(20*time.Millisecond))
			continue
		}
		log.begun.Add(1)
		one := stay{name: name, token: h.token, from: from}
		line := log.journal.begin(journalLine{Kind: log.kind, Name: name, Rev: h.token, Call: log.journal.at(from)})
		timer := time.NewTimer(2*time.Second + rand.N(6*time.Second))
		select {
		case <-h.over:
			one.lost = true
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		one.until = time.Now()
		log.add(one)
		line.Return, line.Lost = log.journal.at(one.until), one.lost
		log.journal.end(line)
		release, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		_ = h.release(release) // what it says is of no concern here
		stop()
	}
}

// expiries breaks things one after the other, in ways that let sessions expire.
type expiries struct {
	cluster *etcdtest.Cluster
	links   []link
	log     *stays
	n       int
}

// recovered waits until somebody is granted something again.
func (e *expiries) recovered(t *testing.T) {
	t.Helper()
	before := e.log.begun.Load()
	require.Eventually(t, func() bool { return e.log.begun.Load() > before }, 30*time.Second, 5*time.Millisecond)
}

// next breaks the next thing, and mends it after the leases that it concerns are over.
func (e *expiries) next(t *testing.T) {
	t.Helper()
	e.n++
	switch e.n % 3 {
	case 1: // two of the clients lose their links, in different ways
		hows := []func(*etcdtest.Proxy){cutOff, swallow, swallowDown}
		for i := range 2 {
			e.links[(e.n+i)%len(e.links)].each(hows[(e.n/3+i)%len(hows)])
		}
		spend(t, shortTTL+900*time.Millisecond)
		for _, l := range e.links {
			l.each((*etcdtest.Proxy).Heal)
		}
	case 2: // there is no quorum
		i := rand.IntN(3)
		pair := []*etcdtest.Server{e.cluster.Members[i], e.cluster.Members[(i+1)%3]}
		for _, s := range pair {
			s.Pause()
		}
		spend(t, shortTTL+300*time.Millisecond)
		for _, s := range pair {
			s.Resume()
		}
	default: // one member after the other
		for _, s := range e.cluster.Members {
			s.Pause()
			spend(t, time.Second)
			s.Resume()
		}
	}
	e.recovered(t)
}

// Five clients contend for names, and so do as many of client/v3, over the same links, in the same
// storm.
func TestLock_ExclusionUnderSessionExpiry(t *testing.T) {
	cluster := etcdtest.StartCluster(t, 3)
	const clients = 5
	names := scale(20, 60)
	var ours, official stays
	faults := &expiries{cluster: cluster, log: &ours}
	var contenders []func(ctx context.Context)
	for range clients {
		l := newLink(t, cluster)
		faults.links = append(faults.links, l)
		take, takeOfficial := newTaker(t, l.endpoints()), officialTaker{cli: newClient(t, l.endpoints()), dir: "official/", ttl: shortTTL}.take()
		for i := range names {
			name := fmt.Sprint("n", i)
			contenders = append(contenders,
				func(ctx context.Context) { contend(ctx, t, &ours, name, take) },
				func(ctx context.Context) { contend(ctx, t, &official, name, takeOfficial) })
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	for _, c := range contenders {
		wg.Go(func() { c(ctx) })
	}
	began := time.Now()
	require.Eventually(t, func() bool { return ours.judge().Stays > 0 && official.judge().Stays > 0 }, 10*time.Second, time.Millisecond)
	for want := scale(1, 1_000); faults.n < 3 || ours.judge().Lost < want && !t.Failed(); {
		faults.next(t)
	}
	broke := time.Since(began)
	stop()
	wg.Wait()
	f := ours.judge()
	t.Logf("broken %d times in %v: %+v", faults.n, broke.Round(time.Millisecond), f)
	t.Logf("client/v3/concurrency in the same storm: %+v", official.judge())
	assert.Zero(t, f.Overlaps)
	assert.Zero(t, f.Regressions)
	assertEmpty(t, cluster.Client(t), "locks/")
}
