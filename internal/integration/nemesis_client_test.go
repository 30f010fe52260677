package integration_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/lock"
	"github.com/etcdkit/etcdkit/watch"
)

const (
	stormDir   = "n/"            // everything of the storm is below it
	stormTTL   = 5 * time.Second // of sessions
	stormEpoch = 20 * time.Second
	stormBound = 2 * time.Second // of the staleness of caches

	registerKeys = 5
	dataKeys     = 10
	accounts     = 6
)

// stormPlan is what a process of the storm is given to do.
type stormPlan struct {
	Name    string // no other process has it
	Base    int64  // when the storm began, on the clock that all processes share
	Journal string // paths
	Log     string
	Config  string
	Epoch   time.Duration // after which histories begin anew; 0 for never

	Peers *peerConfig // nil for a process that uses this library only
}

// peerConfig is how the same process uses client/v3 alone.
type peerConfig struct {
	Endpoints          []string
	TLS                etcdkit.TLSConfig
	Username, Password string
}

// stormBatch is a batch of a watch.
type stormBatch struct {
	Kind   string
	Rev    int64
	More   bool `json:",omitempty"`
	Events []stormEvent
}

type stormEvent struct {
	Key, Value string
	Deleted    bool `json:",omitempty"`
	Rev        int64
}

// stormRead is what a reader was told of a key.
type stormRead struct {
	Key, Value string
	Rev        int64 // 0: absent
	AtLeast    int64 // a revision that the answer must reflect
	Bound      int64 // how old the answer may be, in nanoseconds; negative for any age
}

// bankTx is a transfer: the accounts, what it read of them and what it wrote to them.
type bankTx struct {
	Accounts    [2]int
	Read, Wrote [2]string
}

// stormClient is a process of the storm.
type stormClient struct {
	t       *testing.T
	plan    stormPlan
	journal *journal
	c       *etcdkit.Client
	peer    *clientv3.Client

	ctx  context.Context // ends when the work is to end
	stop context.CancelFunc
	wg   sync.WaitGroup
	ids  sync.Mutex
	n    int

	closers []func() error // in the order of their making
	settled []func(instances int)
}

func stormProcess(t *testing.T, path string, orders *bufio.Scanner) {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	p := &stormClient{t: t}
	require.NoError(t, json.Unmarshal(text, &p.plan))
	p.journal = newJournal(t, p.plan.Journal, p.plan.Base)
	defer p.journal.recordStalls()()
	log, err := os.OpenFile(p.plan.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	defer log.Close()
	cfg, err := etcdkit.LoadConfig(p.plan.Config)
	require.NoError(t, err)
	p.c, err = etcdkit.OpenLazy(cfg, etcdkit.WithLogger(slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	require.NoError(t, err)
	if p.plan.Peers != nil {
		p.peer = newPeer(t, *p.plan.Peers)
	}
	p.ctx, p.stop = context.WithCancel(t.Context())
	defer p.stop()
	p.work()
	say("working")
	for orders.Scan() {
		switch n, err := strconv.Atoi(orders.Text()); {
		case orders.Text() == "measure":
			heap, goroutines := measureProcess()
			say("%d %d", heap, goroutines)
		case orders.Text() == "rest":
			p.stop()
			p.wg.Wait()
			say("resting")
		case err == nil:
			for _, settled := range p.settled {
				settled(n)
			}
			say("settled")
		}
	}
	p.stop()
	p.wg.Wait()
	for i := range p.closers {
		assert.NoError(t, p.closers[len(p.closers)-1-i]())
	}
	assert.NoError(t, p.c.Close())
}

// newPeer is a client of client/v3 as people configure it.
func newPeer(t *testing.T, p peerConfig) *clientv3.Client {
	t.Helper()
	cfg := clientv3.Config{
		Endpoints: p.Endpoints, Username: p.Username, Password: p.Password, Logger: zap.NewNop(),
		DialTimeout: 5 * time.Second, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
	}
	if p.TLS.CAFile != "" {
		cfg.TLS = tlsOf(t, p.TLS)
	}
	for { // New logs in, which may not be possible now
		cli, err := clientv3.New(cfg)
		if err == nil {
			t.Cleanup(func() { _ = cli.Close() })
			return cli
		}
		spend(t, 200*time.Millisecond)
	}
}

func tlsOf(t *testing.T, files etcdkit.TLSConfig) *tls.Config {
	t.Helper()
	authority, err := os.ReadFile(files.CAFile)
	require.NoError(t, err)
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	require.NoError(t, err)
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	require.True(t, cfg.RootCAs.AppendCertsFromPEM(authority))
	return cfg
}

// id returns a name that is given once in the storm.
func (p *stormClient) id() string {
	p.ids.Lock()
	defer p.ids.Unlock()
	p.n++
	return p.plan.Name + "-" + strconv.Itoa(p.n)
}

// epoch numbers parts of the storm. Histories of one epoch are short enough to be checked.
func (p *stormClient) epoch() int64 {
	if p.plan.Epoch == 0 {
		return 0
	}
	return p.journal.clock() / int64(p.plan.Epoch)
}

// loop calls f again and again until the work is to end.
func (p *stormClient) loop(pause time.Duration, f func()) {
	p.wg.Go(func() {
		for p.ctx.Err() == nil {
			f()
			p.rest(pause/2 + rand.N(pause))
		}
	})
}

func (p *stormClient) rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.ctx.Done():
	}
}

// insist calls f until it succeeds.
func (p *stormClient) insist(f func(ctx context.Context) error) bool {
	for p.ctx.Err() == nil {
		ctx, stop := context.WithTimeout(p.ctx, 10*time.Second)
		err := f(ctx)
		stop()
		if err == nil {
			return true
		}
		p.rest(100 * time.Millisecond)
	}
	return false
}

func (p *stormClient) work() {
	for range 2 {
		p.registers()
	}
	p.counters("count/", func(dir string) adder { return addWithUpdate(p.c.KV(), dir, nothing) }, patience)
	p.loop(50*time.Millisecond, p.transfer)
	p.loop(200*time.Millisecond, p.audit)
	p.locks()
	p.stays()
	p.loop(100*time.Millisecond, p.session)
	p.wg.Go(p.follow)
	if p.peer != nil {
		p.counters("peercount/", func(dir string) adder { return addByReadingAgain(p.peer, stormDir+dir, nothing) }, 0)
		p.wg.Go(p.peerFollow)
	}
	var opened sync.WaitGroup
	for _, open := range []func(){p.key, p.caches, p.config, p.discovery} {
		opened.Go(open)
	}
	opened.Wait()
}

func (p *stormClient) registers() {
	var c *client
	at := int64(-1)
	var shared *history
	p.loop(40*time.Millisecond, func() {
		if e := p.epoch(); e != at {
			at = e
			shared = newHistory(fmt.Sprintf("kv/%d/", e))
			shared.start, shared.journal, shared.who = p.journal.start, p.journal, p.id()
			c = shared.newClient(p.t, p.c.KV())
		}
		c.call(registerKeys)
		shared.operations, shared.nothing = nil, nil // they are in the journal
	})
}

// counters increments a counter, for at most limit; 0 means until the work is to end.
func (p *stormClient) counters(dir string, through func(dir string) adder, limit time.Duration) {
	p.loop(60*time.Millisecond, func() {
		count := newCounter()
		count.start, count.journal = p.journal.start, p.journal
		count.dir = fmt.Sprintf("%s%d/", dir, p.epoch())
		ctx := p.ctx
		if limit > 0 {
			var stop context.CancelFunc
			ctx, stop = context.WithTimeout(p.t.Context(), limit)
			defer stop()
		}
		_ = count.add(ctx, 0, p.id(), through(count.dir)) // it is in the journal
		if limit > 0 && rand.IntN(4) == 0 {
			p.readCounter(count)
		}
	})
}

func (p *stormClient) readCounter(count *counter) {
	call := p.journal.clock()
	e, err := p.c.KV().Get(p.ctx, count.dir+counterKey)
	if err != nil {
		return
	}
	n, _, err := parseCount(string(e.Value))
	assert.NoError(p.t, err)
	p.journal.write(journalLine{Kind: "counter read", Name: count.dir, Call: call, Return: p.journal.clock(), Count: n})
}

func bankAccount(i int) string { return fmt.Sprint("bank/", i) }

// transfer moves an amount from one account to another, whatever their balance is.
func (p *stormClient) transfer() {
	id := p.id()
	from := rand.IntN(accounts)
	to := (from + 1 + rand.IntN(accounts-1)) % accounts
	amount := 1 + rand.IntN(9)
	line := p.journal.begin(journalLine{Kind: "transfer", Who: id, Call: p.journal.clock()})
	tx := bankTx{Accounts: [2]int{from, to}}
	ctx, stop := context.WithTimeout(p.t.Context(), patience)
	defer stop()
	var o []kv.WriteOption
	if rand.IntN(2) == 0 {
		o = append(o, kv.WithOnce())
	}
	rev, err := p.c.KV().Transact(ctx, func(_ context.Context, t *kv.Tx) error {
		for i, amount := range []int{-amount, amount} {
			e, err := t.Get(bankAccount(tx.Accounts[i]))
			if err != nil {
				return err
			}
			balance, _, err := parseCount(string(e.Value))
			if err != nil {
				return err
			}
			tx.Read[i], tx.Wrote[i] = string(e.Value), formatCount(balance+amount, id)
			if err := t.Put(e.Key, []byte(tx.Wrote[i])); err != nil {
				return err
			}
		}
		return nil
	}, o...)
	line.Return, line.Rev, line.Unknown, line.Bank = p.journal.clock(), rev, isUnknown(err), &tx
	if err != nil {
		line.Failed = err.Error()
	}
	p.journal.end(line)
	assert.False(p.t, isUnknown(err) && !isFull(err) && len(o) > 0, "a transfer has an operation slot: %v", err)
}

// audit reads all accounts at once.
func (p *stormClient) audit() {
	line := journalLine{Kind: "audit", Call: p.journal.clock()}
	for e, err := range p.c.KV().List(p.ctx, "bank/", kv.WithReadRevision(&line.Rev)) {
		if err != nil {
			return
		}
		line.Many = append(line.Many, string(e.Value))
	}
	line.Return = p.journal.clock()
	p.journal.write(line)
}

func (p *stormClient) locks() {
	l := p.c.Locks()
	diaryOf := func(kind, release string) *diary {
		d := newDiary(fmt.Sprintf("%s/%d/", kind, p.epoch()), release)
		d.start, d.journal, d.who = p.journal.start, p.journal, p.id()
		d.tolerate = func(error) bool { return true } // a fault may last longer than a call
		return d
	}
	for range 2 {
		p.loop(20*time.Millisecond, func() {
			d := diaryOf("m", handed)
			d.hold(p.t, p.c.KV(), d.id(), l.Mutex(d.dir+"lock").Lock)
		})
	}
	p.loop(20*time.Millisecond, func() {
		d := diaryOf("e", released)
		who := d.id()
		d.hold(p.t, p.c.KV(), who, func(ctx context.Context) (*lock.Held, error) {
			led, err := l.Election(d.dir+"lock").Campaign(ctx, who)
			if err != nil {
				return nil, err
			}
			return led.Held, nil
		})
	})
	p.loop(100*time.Millisecond, func() {
		d := diaryOf("e", released)
		d.look(p.t, l.Election(d.dir+"lock"))
	})
}

// stays takes locks and leaderships for seconds, with this library and with package concurrency of
// client/v3.
func (p *stormClient) stays() {
	mutex := func(ctx context.Context, name string) (taken, error) {
		h, err := p.c.Locks().Mutex("stay/" + name).Lock(ctx)
		if err != nil {
			return taken{}, err
		}
		return taken{h.Token(), h.Context().Done(), h.Release}, nil
	}
	election := func(ctx context.Context, name string) (taken, error) {
		led, err := p.c.Locks().Election("stay/"+name).Campaign(ctx, p.plan.Name)
		if err != nil {
			return taken{}, err
		}
		return taken{led.Token(), led.Context().Done(), led.Release}, nil
	}
	takers := map[string]taker{"mutex stay": mutex, "election stay": election}
	if p.peer != nil {
		official := officialTaker{cli: p.peer, dir: stormDir + "official/mutex/", ttl: stormTTL}
		takers["peer mutex stay"] = official.take()
		official.dir, official.election = stormDir+"official/election/", true
		takers["peer election stay"] = official.take()
	}
	for kind, take := range takers {
		log := &stays{kind: kind, journal: p.journal}
		for i := range 3 {
			p.wg.Go(func() { contend(p.ctx, p.t, log, fmt.Sprint("n", i), take) })
		}
	}
}

// session opens a session with a key on it and notes when it was lost.
func (p *stormClient) session() {
	s, err := p.c.Leases().OpenSession(p.ctx, lease.WithTTL(stormTTL))
	if err != nil {
		return
	}
	var lost sync.WaitGroup
	lost.Add(1)
	key := "sess/" + p.id()
	begun := p.journal.clock()
	over := int64(0)
	context.AfterFunc(s.Context(), func() {
		over = p.journal.clock()
		lost.Done()
	})
	if _, err := p.c.KV().Put(p.ctx, key, []byte(p.plan.Name), kv.WithLease(s.ID())); err == nil {
		timer := time.NewTimer(5*time.Second + rand.N(10*time.Second))
		select {
		case <-s.Context().Done():
		case <-timer.C:
		case <-p.ctx.Done():
		}
		timer.Stop()
	}
	wasLost := s.Err() != nil
	if wasLost {
		lost.Wait()
	}
	p.journal.write(journalLine{Kind: "session", Name: key, Call: begun, Return: cmp.Or(over, p.journal.clock()), Lost: wasLost})
	_ = s.Close() // the lease may be gone
}

// key keeps a key for as long as the process works.
func (p *stormClient) key() {
	name := "keys/" + p.plan.Name
	var k *lease.Key
	if !p.insist(func(ctx context.Context) (err error) {
		k, err = p.c.Leases().OpenKey(ctx, name, []byte(p.plan.Name))
		return err
	}) {
		return
	}
	p.later(k.Close, func(int) {
		assert.Eventually(p.t, func() bool {
			e, err := p.c.KV().Get(p.t.Context(), name)
			return k.State() == lease.Alive && err == nil && string(e.Value) == p.plan.Name && e.Lease != 0
		}, 30*time.Second, 20*time.Millisecond, "the key %s is back", name)
	})
}

// later registers what is to be checked at the end, and then closed.
func (p *stormClient) later(end func() error, settled func(instances int)) {
	p.ids.Lock()
	defer p.ids.Unlock()
	p.closers = append(p.closers, end)
	p.settled = append(p.settled, settled)
}

func batchOf(b watch.Batch) *stormBatch {
	out := &stormBatch{Kind: b.Kind.String(), Rev: b.Revision, More: b.More}
	for _, e := range b.Events {
		out.Events = append(out.Events, stormEvent{Key: e.Key, Value: string(e.Value), Deleted: e.Type == watch.Delete, Rev: e.ModRevision})
	}
	return out
}

// follow watches the data in two ways, and writes to it.
func (p *stormClient) follow() {
	p.loop(50*time.Millisecond, func() {
		key := fmt.Sprint("data/k", rand.IntN(dataKeys))
		if rand.IntN(10) == 0 {
			_, _ = p.c.KV().Delete(p.ctx, key) // the history of etcd says what became of it
			return
		}
		_, _ = p.c.KV().Put(p.ctx, key, []byte(p.id()))
	})
	note := func(who string) func(context.Context, watch.Batch) error {
		return func(_ context.Context, b watch.Batch) error {
			p.journal.write(journalLine{Kind: "watch", Who: who, Batch: batchOf(b)})
			return nil
		}
	}
	state, err := p.c.Watcher().Subscribe(watch.Prefix("data/"), note("state"), watch.WithSnapshot())
	require.NoError(p.t, err)
	p.later(func() error {
		assert.NoError(p.t, state.Err())
		return state.Close()
	}, func(int) {
		var rev int64
		_, err := p.c.KV().Map(p.t.Context(), "data/", kv.WithReadRevision(&rev))
		assert.NoError(p.t, err)
		ctx, stop := context.WithTimeout(p.t.Context(), 30*time.Second)
		defer stop()
		assert.NoError(p.t, state.WaitRevision(ctx, rev))
	})

	var o []watch.Option
	for p.ctx.Err() == nil {
		var last int64
		for b, err := range p.c.Watcher().Watch(p.ctx, watch.Prefix("data/"), o...) {
			if compacted, ok := errors.AsType[*watch.CompactedError](err); ok {
				p.journal.write(journalLine{Kind: "watch", Who: "changes", Batch: &stormBatch{Kind: "compacted", Rev: compacted.Oldest}})
				last = compacted.Oldest - 1
			} else if err != nil {
				p.journal.write(journalLine{Kind: "watch", Who: "changes", Failed: err.Error()})
			} else {
				_ = note("changes")(p.ctx, b)
				last = b.Revision
			}
		}
		if last != 0 {
			o = []watch.Option{watch.WithAfter(last)}
		}
		p.rest(100 * time.Millisecond)
	}
}

// peerFollow watches the data as the documentation of client/v3 shows it, and begins again when the
// channel is closed.
func (p *stormClient) peerFollow() {
	for p.ctx.Err() == nil {
		for resp := range p.peer.Watch(p.ctx, stormDir+"data/", clientv3.WithPrefix()) {
			for _, e := range resp.Events {
				p.journal.write(journalLine{Kind: "peer watch", Rev: e.Kv.ModRevision, Name: string(e.Kv.Key[len(stormDir+"data/"):])})
			}
		}
		p.rest(100 * time.Millisecond)
	}
}

func (p *stormClient) caches() {
	codec := kv.String()
	var through *cache.Cache[string]
	if !p.insist(func(ctx context.Context) (err error) {
		through, err = cache.Open(ctx, p.c, "data", codec, cache.WithMaxStaleness(stormBound))
		return err
	}) {
		return
	}
	var replica *cache.Replica[string]
	opened := p.insist(func(ctx context.Context) (err error) {
		replica, err = cache.OpenReplica(ctx, p.c, "data", codec, cache.WithMaxStaleness(stormBound))
		return err
	})
	p.later(through.Close, func(int) {})
	if !opened {
		return
	}
	p.later(replica.Close, func(int) {
		for i := range dataKeys {
			key := fmt.Sprint("k", i)
			assert.Eventually(p.t, func() bool {
				want, wantErr := p.c.KV().Get(p.t.Context(), "data/"+key)
				if wantErr != nil && !errors.Is(wantErr, kv.ErrNotFound) {
					return false
				}
				one, oneErr := replica.Get(p.t.Context(), key)
				other, otherErr := through.Get(p.t.Context(), key)
				return one.ModRevision == want.ModRevision && other.ModRevision == want.ModRevision &&
					(oneErr == nil) == (wantErr == nil) && (otherErr == nil) == (wantErr == nil)
			}, 30*time.Second, 20*time.Millisecond, "the caches end with what is in etcd")
		}
	})
	read := func(name string, bound time.Duration, get func(ctx context.Context, key string, rev int64) (kv.Entry[string], error)) {
		var rev int64
		p.loop(60*time.Millisecond, func() {
			if bound <= 0 && rand.IntN(3) == 0 {
				if written, err := p.c.KV().Put(p.ctx, fmt.Sprint("data/k", rand.IntN(dataKeys)), []byte(p.id())); err == nil {
					rev = written
				}
			}
			key := fmt.Sprint("k", rand.IntN(dataKeys))
			line := journalLine{Kind: "read", Name: name, Call: p.journal.clock()}
			e, err := get(p.ctx, key, rev)
			if err != nil && !errors.Is(err, kv.ErrNotFound) {
				return
			}
			line.Return = p.journal.clock()
			line.Read = &stormRead{Key: key, Value: e.Value, Rev: e.ModRevision, Bound: int64(bound), AtLeast: rev}
			p.journal.write(line)
		})
	}
	read("cache", stormBound, func(ctx context.Context, key string, _ int64) (kv.Entry[string], error) { return through.Get(ctx, key) })
	read("replica", stormBound, func(ctx context.Context, key string, _ int64) (kv.Entry[string], error) { return replica.Get(ctx, key) })
	read("cache, at least", -1, func(ctx context.Context, key string, rev int64) (kv.Entry[string], error) {
		return through.GetAtLeast(ctx, key, rev)
	})
	read("replica, linearizable", 0, func(ctx context.Context, key string, _ int64) (kv.Entry[string], error) {
		return replica.GetLinearizable(ctx, key)
	})
}

var errNegative = errors.New("negative")

func (p *stormClient) config() {
	var source *config.Source
	if !p.insist(func(ctx context.Context) (err error) {
		source, err = config.Open(ctx, p.c, "cfg")
		return err
	}) {
		return
	}
	limit, err := config.Bind(source, "limit", config.WithDefault(0), config.WithValidate(func(n int) error {
		if n < 0 {
			return errNegative
		}
		return nil
	}))
	require.NoError(p.t, err)
	stop := limit.Follow(func(n int) { p.journal.write(journalLine{Kind: "config", Count: n}) })
	p.later(func() error {
		stop()
		return source.Close()
	}, func(int) {
		assert.Eventually(p.t, func() bool {
			e, err := p.c.KV().Get(p.t.Context(), "cfg/limit")
			return err == nil && strconv.Itoa(limit.Load()) == string(e.Value)
		}, 30*time.Second, 20*time.Millisecond, "the configuration ends with what is in etcd")
	})
}

func (p *stormClient) discovery() {
	r := etcdtest.Must(discovery.New(p.c, discovery.WithTTL(stormTTL)))
	p.later(r.Close, func(int) {})
	if !p.insist(func(ctx context.Context) error {
		_, err := r.Register(ctx, discovery.Instance{Service: "svc", ID: p.plan.Name, Host: "10.0.0.1", Port: 80})
		return err
	}) {
		return
	}
	var view *discovery.Service
	if !p.insist(func(ctx context.Context) (err error) {
		view, err = r.OpenService(ctx, "svc")
		return err
	}) {
		return
	}
	stop := view.Follow(func(all []discovery.Instance) {
		line := journalLine{Kind: "view"}
		for _, i := range all {
			line.Many = append(line.Many, i.ID)
		}
		p.journal.write(line)
	})
	p.later(func() error {
		stop()
		return view.Close()
	}, func(instances int) {
		assert.Eventually(p.t, func() bool { return len(view.Instances()) == instances }, 60*time.Second, 20*time.Millisecond,
			"the view ends with %d instances", instances)
	})
}
