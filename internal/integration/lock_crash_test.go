//nolint:paralleltest // each test has a server, and the machine, to itself
package integration_test

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

// contendByOrder is what a process does that contends for a mutex, or an election: it takes it,
// says so, gives it back when it reads a line, and takes it again, until there is nothing more to
// read.
func contendByOrder(t *testing.T, kind string, endpoints []string, orders *bufio.Scanner) {
	l := etcdtest.Must(lock.New(open(t, endpoints), lock.WithTTL(shortTTL)))
	ctx, stop := context.WithCancel(t.Context())
	lines := make(chan string)
	go func() {
		defer stop()
		for orders.Scan() {
			lines <- orders.Text()
		}
	}()
	for {
		h, err := takeByKind(ctx, l, kind)
		if err != nil {
			require.ErrorIs(t, err, context.Canceled)
			break
		}
		say("holds %d %d", h.Token(), time.Now().UnixNano())
		select {
		case <-lines:
		case <-ctx.Done():
		case <-h.Context().Done():
		}
		say("held %d %d", h.Token(), time.Now().UnixNano())
		assert.NoError(t, h.Release(t.Context()))
	}
	require.NoError(t, l.Close())
}

func takeByKind(ctx context.Context, l *lock.Locker, kind string) (*lock.Held, error) {
	if kind == "mutex" {
		return l.Mutex("n").Lock(ctx)
	}
	led, err := l.Election("n").Campaign(ctx, "me")
	if err != nil {
		return nil, err
	}
	return led.Held, nil
}

// crowd is processes that contend, and what they have said.
type crowd struct {
	t         *testing.T
	kind      string
	endpoints []string
	members   []*childProcess
	heard     chan notice
	log       stays
	holds     map[*childProcess]notice // since when; what one process says may be heard before what another said earlier
	current   *childProcess            // whose hold is the last
}

// notice is that a process holds, or does so no longer.
type notice struct {
	by    *childProcess
	verb  string
	token int64
	at    time.Time
}

// join adds a process.
func (c *crowd) join() {
	p := newChild(c.t, c.kind, c.endpoints)
	c.members = append(c.members, p)
	go func() {
		for line := range p.lines {
			n := notice{by: p}
			var at int64
			_, err := fmt.Sscan(line, &n.verb, &n.token, &at)
			assert.NoError(c.t, err)
			n.at = time.Unix(0, at)
			c.heard <- n
		}
		c.heard <- notice{by: p, verb: "ended"}
	}()
}

// kill kills a process, and lets another one join.
func (c *crowd) kill(p *childProcess) {
	p.signal(syscall.SIGKILL)
	c.over(p, time.Now())
	c.members = slices.DeleteFunc(c.members, func(m *childProcess) bool { return m == p })
	c.join()
}

// over ends the stay of a process, if it has one.
func (c *crowd) over(p *childProcess, at time.Time) {
	if n, ok := c.holds[p]; ok {
		c.log.add(stay{name: c.kind, token: n.token, from: n.at, until: at})
		delete(c.holds, p)
	}
}

// waiter is the process that has waited for longest, or nearly.
func (c *crowd) waiter() *childProcess {
	return c.members[slices.IndexFunc(c.members, func(p *childProcess) bool { return p != c.current })]
}

// inherit waits until somebody holds, and returns how long that took.
func (c *crowd) inherit() time.Duration {
	c.t.Helper()
	began := time.Now()
	timer := time.NewTimer(30 * time.Second)
	defer timer.Stop()
	for {
		select {
		case n := <-c.heard:
			switch n.verb {
			case "holds":
				c.holds[n.by], c.current = n, n.by
				return time.Since(began)
			case "held":
				c.over(n.by, n.at)
			}
		case <-timer.C:
			require.FailNow(c.t, "nobody takes it")
		}
	}
}

// end lets all processes end in good order.
func (c *crowd) end() {
	for _, p := range c.members {
		require.NoError(c.t, p.in.Close())
	}
	timer := time.NewTimer(30 * time.Second)
	defer timer.Stop()
	for ended := 0; ended < len(c.members); {
		select {
		case n := <-c.heard:
			switch {
			case n.verb == "holds":
				c.holds[n.by] = n
			case n.verb == "held":
				c.over(n.by, n.at)
			case n.verb == "ended" && slices.Contains(c.members, n.by):
				ended++
			}
		case <-timer.C:
			require.FailNow(c.t, "a process does not end")
		}
	}
}

func TestLock_KilledProcessesPassOnLocks(t *testing.T) {
	srv := etcdtest.Start(t)
	direct := srv.Client(t)
	for kind, dir := range map[string]string{"mutex": "locks/", "election": "elections/"} {
		t.Run(kind, func(t *testing.T) {
			c := &crowd{t: t, kind: kind, endpoints: srv.Endpoints(), heard: make(chan notice, 1024), holds: map[*childProcess]notice{}}
			for range 5 {
				c.join()
			}
			c.inherit()
			queueLen(t, direct, dir, 5)
			var crashed, resigned, either []time.Duration
			for range scale(1, 20) {
				c.kill(c.waiter()) // who may be the next
				c.current.tell("release")
				either = append(either, c.inherit())
				c.kill(c.current)
				crashed = append(crashed, c.inherit())
				c.current.tell("release")
				resigned = append(resigned, c.inherit())
			}
			t.Logf("after a crash %v; after a release %v, and where one that waits has crashed %v", crashed, resigned, either)
			for _, took := range slices.Concat(crashed, either) {
				assert.Less(t, took, shortTTL+2*time.Second)
			}
			for _, took := range resigned {
				assert.Less(t, took, shortTTL, "handed on, and not expired")
			}
			c.end()
			assertEmpty(t, direct, dir)
			f := c.log.judge()
			t.Logf("%+v", f)
			assert.Zero(t, f.Overlaps)
			assert.Zero(t, f.Regressions)
			assert.GreaterOrEqual(t, f.Stays, len(crashed)+len(resigned)+len(either))
		})
	}
}
