package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// farewell bounds everything that is done on the server when something is closed.
const farewell = 5 * time.Second

// Manager grants leases and keeps those of its sessions and keys alive. It is safe for concurrent use. Managers made
// from one another with [Manager.Namespace] share everything but the namespace.
type Manager struct {
	*core

	ns   string
	bad  error // what is wrong with the manager: every call returns it
	view bool  // made by Namespace: owns nothing
}

// core is what a manager shares with those made from it.
type core struct {
	cli     *clientv3.Client
	service service
	ownIDs  bool // grants get the ID that was asked for
	kv      clientv3.KV
	engine  *retry.Engine
	log     *slog.Logger
	ttl     time.Duration
	onLoss  func(cause error)

	life    context.Context //nolint:containedctx // of the manager: no caller's context may reach what is shared
	endLife context.CancelCauseFunc
	renewer renewer
	lost    atomic.Uint64
	telling busy // of losses

	mu     sync.Mutex
	closed bool
	jobs   sync.WaitGroup // work in the background that nobody else waits for
	pools  map[time.Duration]*pool
	keys   map[string]*Key   // by absolute key
	sweeps map[string]*sweep // likewise

	sweepAfter []time.Duration

	closing  sync.Once
	closeErr error
}

// New returns a manager over cli. It sends nothing. cli.Lease is used as it is where it is not client/v3's own.
//
// What is wrong with the options is returned by every call of the manager, since New has no error result.
func New(cli *clientv3.Client, opts ...Option) *Manager {
	s := settings{ttl: defaultTTL}
	for _, opt := range opts {
		if opt != nil {
			opt(&s)
		}
	}
	ns, badDir := keyspace.Dir(s.namespace)
	bad := errors.Join(badDir, s.retry.Validate(), checkTTL(s.ttl))
	if s.read < 0 || s.write < 0 {
		bad = errors.Join(bad, fmt.Errorf("%w: negative timeout", errs.Invalid))
	}
	if cli == nil {
		bad = errors.Join(bad, fmt.Errorf("%w: no client", errs.Invalid))
	}
	if bad != nil {
		return &Manager{core: &core{}, bad: bad, view: true}
	}
	return &Manager{core: newCore(cli, s), ns: ns}
}

func newCore(cli *clientv3.Client, s settings) *core {
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	c := &core{
		cli: cli, log: s.logger, ttl: s.ttl, onLoss: s.onLoss,
		pools: map[time.Duration]*pool{}, keys: map[string]*Key{}, sweeps: map[string]*sweep{},
		sweepAfter: sweepAfter(),
	}
	//nolint:forbidigo // the manager's own life: no caller's metadata or deadline may reach the shared stream
	c.life, c.endLife = context.WithCancelCause(context.Background())
	c.service, c.ownIDs = newService(cli, s.stub)
	c.kv, _ = wire.KV(cli)
	c.engine = retry.New(retry.Config{
		Client: cli, Policy: retry.Policy(s.retry), ReadTimeout: s.read, WriteTimeout: s.write,
		Observed: wire.Hardened(cli) && c.ownIDs && s.stub == nil, Logger: s.logger, Observe: s.onRetry,
	})
	c.renewer = newRenewer(c)
	return c
}

// Namespace returns the manager of what lies below dir. It shares the sessions and the stream; closing it closes
// nothing. What is wrong with dir is returned by every call.
func (m *Manager) Namespace(dir string) *Manager {
	below, err := keyspace.Dir(dir)
	return &Manager{core: m.core, ns: m.ns + below, bad: errors.Join(m.bad, err), view: true}
}

// ready is nil if calls may be made.
func (m *Manager) ready() error {
	switch {
	case m.bad != nil:
		return m.bad
	case m.gone():
		return errs.Closed
	}
	return nil
}

func (c *core) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// job runs f in the background, and Close waits for it. It reports false, and does nothing, after Close.
func (c *core) job(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.jobs.Go(f)
	return true
}

// parting is a context for what has to be done on the server when something ends, whatever else has ended.
func (c *core) parting() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(c.life), farewell)
}

// Stats is what a manager has and did, over all namespaces. Counters start at 0 and only grow.
type Stats struct {
	Sessions  int `json:"sessions"`  // that live, shared ones included
	Suspended int `json:"suspended"` // of those, whose renewals fail at present
	Keys      int `json:"keys"`      // that are kept

	Renewals uint64 `json:"renewals"` // answered
	Failures uint64 `json:"failures"` // streams that failed
	Streams  uint64 `json:"streams"`  // streams that were opened, or tried to be
	Lost     uint64 `json:"lost"`     // sessions that ended other than by being closed
	Retries  uint64 `json:"retries"`  // attempts of other calls beyond the first of each
}

// Stats returns the counters. It sends nothing.
func (m *Manager) Stats() Stats {
	if m.engine == nil {
		return Stats{}
	}
	s := Stats{
		Renewals: m.renewer.renewals.Load(), Failures: m.renewer.failures.Load(), Streams: m.renewer.streams.Load(),
		Lost: m.lost.Load(), Retries: m.engine.Stats().Retries,
	}
	for _, one := range m.renewer.all() {
		s.Sessions++
		if one.State() == Suspended {
			s.Suspended++
		}
	}
	m.mu.Lock()
	s.Keys = len(m.keys)
	m.mu.Unlock()
	return s
}

// Close removes all keys of the manager and revokes the leases of all its sessions, within about 5 s in all, and waits
// for what runs in the background. Contexts end with a cause that matches [ErrClosed]. It does its work once and returns
// the same result every time; an error means that leases were left to end by themselves. A manager made by Namespace has
// nothing to close.
func (m *Manager) Close() error {
	if m.view {
		return nil
	}
	m.closing.Do(func() { m.closeErr = m.close() })
	return m.closeErr
}

func (c *core) close() error {
	c.mu.Lock()
	c.closed = true
	keys := make([]*Key, 0, len(c.keys))
	for _, k := range c.keys {
		keys = append(keys, k)
	}
	c.mu.Unlock()
	c.endLife(closedError("manager"))

	ctx, stop := c.parting()
	defer stop()
	err := together(keys, func(k *Key) error { return k.close(ctx) })
	err = errors.Join(err, together(c.renewer.close(), func(s *Session) error { return s.close(ctx) }))
	c.jobs.Wait()
	c.renewer.wait()
	c.telling.wait()
	if err != nil {
		return fail("close", "", err)
	}
	return nil
}

// abreast is how many things are closed at the same time.
const abreast = 32

// together calls f for each of all, several at a time, and returns the first few errors.
func together[T any](all []T, f func(T) error) error {
	var (
		wg   sync.WaitGroup
		next atomic.Int64
		mu   sync.Mutex
		bad  []error
	)
	for range min(abreast, len(all)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(all)); i = next.Add(1) - 1 {
				if err := f(all[i]); err != nil {
					mu.Lock()
					bad = append(bad, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	const few = 3
	if more := len(bad) - few; more > 0 {
		bad = append(bad[:few], fmt.Errorf("and %d more", more))
	}
	return errors.Join(bad...)
}

// lifelong is a context of the manager's own that does not end with it: what is made with it ends with its last user.
func (c *core) lifelong() (context.Context, context.CancelFunc) {
	return context.WithCancel(context.WithoutCancel(c.life))
}
