package sim

import (
	"cmp"
	"container/heap"
	"context"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/etcdkit/etcdkit"
)

// Options configures a simulation. Zero fields have the defaults that are named.
type Options struct {
	Members          int               // 3
	Version          string            // that the members report: 3.7.3
	Link             LinkOptions       // between each client and each member: 500 µs with a jitter of 200 µs
	PeerLatency      time.Duration     // between members, one way: 300 µs
	DiskLatency      time.Duration     // of a commit: 500 µs
	ApplyLag         time.Duration     // mean delay with which followers apply: 1 ms
	ClockRate        float64           // how fast the clocks of the members run: 1
	ProgressInterval time.Duration     // between progress notifications: 10 min
	Users            map[string]string // with passwords; each has all permissions. None: authentication is disabled
	TokenTTL         time.Duration     // of an unused token: 5 min
}

func (o Options) withDefaults() Options {
	o.Members = cmp.Or(o.Members, 3)
	o.Version = cmp.Or(o.Version, "3.7.3")
	o.Link = cmp.Or(o.Link, LinkOptions{Latency: 500 * time.Microsecond, Jitter: 200 * time.Microsecond})
	o.PeerLatency = cmp.Or(o.PeerLatency, 300*time.Microsecond)
	o.DiskLatency = cmp.Or(o.DiskLatency, 500*time.Microsecond)
	o.ApplyLag = cmp.Or(o.ApplyLag, time.Millisecond)
	o.ClockRate = cmp.Or(o.ClockRate, 1)
	o.ProgressInterval = cmp.Or(o.ProgressInterval, 10*time.Minute)
	o.TokenTTL = cmp.Or(o.TokenTTL, 5*time.Minute)
	return o
}

// Sim is a simulated cluster with the network between it and its clients. It must be created, used
// and closed in one synctest bubble.
type Sim struct {
	seed    uint64
	opts    Options
	start   time.Time
	network *network
	trace   *trace
	wake    chan struct{} // holds a value if a request has arrived
	stop    chan struct{}
	done    chan struct{}
	serving sync.WaitGroup

	mu      sync.Mutex // guards all that follows, and the members
	rng     *rand.Rand // used on the scheduler's goroutine only
	inbox   []arrival
	events  eventQueue
	seq     int
	acting  bool // the scheduler is at work, and looks at the queue again when it is done
	cluster cluster
	faults  faults
	killed  map[string]bool // clients
	counts  map[string]int

	observers []func(*mvccpb.Event)
	observed  int64 // the last revision that they have seen
	restored  []func(rev int64, keys map[string]string)
}

// New starts a simulation. Close ends it.
func New(seed uint64, o Options) *Sim {
	o = o.withDefaults()
	s := &Sim{
		seed: seed, opts: o, start: time.Now(), trace: newTrace(time.Now()),
		network: &network{seed: seed, links: map[string]*link{}, opts: o.Link},
		wake:    make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		rng: rand.New(rand.NewPCG(seed, hash(seed, "scheduler"))), killed: map[string]bool{}, counts: map[string]int{},
	}
	s.mu.Lock()
	s.cluster.init(s)
	s.mu.Unlock()
	go s.run()
	return s
}

// Seed returns the seed.
func (s *Sim) Seed() uint64 { return s.seed }

// Rand returns a source of random numbers that depends on the seed and name only. Each goroutine of
// a workload needs one of its own.
func (s *Sim) Rand(name string) *rand.Rand {
	return rand.New(rand.NewPCG(s.seed, hash(s.seed, name)))
}

// Elapsed returns the simulated time since New.
func (s *Sim) Elapsed() time.Duration { return time.Since(s.start) }

// Close stops the members. All clients must have been closed before.
func (s *Sim) Close() {
	close(s.stop)
	<-s.done
	s.mu.Lock()
	for _, m := range s.cluster.members {
		m.shutDown()
	}
	s.mu.Unlock()
	s.serving.Wait()
}

// Endpoints returns the endpoints of all members.
func (s *Sim) Endpoints() []string {
	var out []string
	for _, m := range s.cluster.members {
		out = append(out, "http://"+m.address())
	}
	return out
}

// Config returns a configuration for the client called name, with the endpoints of all members.
func (s *Sim) Config() etcdkit.Config { return etcdkit.Config{Endpoints: s.Endpoints()} }

// Open opens a client that runs in a process of its own, called name. Names contain no dash.
// Messages of the client's logger go to the trace.
func (s *Sim) Open(ctx context.Context, name string, cfg etcdkit.Config, opts ...etcdkit.Option) (*etcdkit.Client, error) {
	return etcdkit.Open(ctx, cfg, append(s.options(name), opts...)...)
}

// OpenLazy is like Open, but connects on first use.
func (s *Sim) OpenLazy(name string, cfg etcdkit.Config, opts ...etcdkit.Option) (*etcdkit.Client, error) {
	return etcdkit.OpenLazy(cfg, append(s.options(name), opts...)...)
}

func (s *Sim) options(name string) []etcdkit.Option {
	return []etcdkit.Option{
		etcdkit.WithDialOptions(grpc.WithContextDialer(s.dialer(name))),
		etcdkit.WithLogger(slog.New(&traceHandler{trace: s.trace, prefix: name})),
		etcdkit.WithObserver(etcdkit.Observer{Operation: s.countOperation, CacheLookup: s.countLookup}),
	}
}

// countOperation is the hook for operations of the library.
func (s *Sim) countOperation(ctx context.Context, op etcdkit.Operation) (context.Context, func(etcdkit.OperationResult)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts["operation "+op.Package+" "+op.Name]++
	return ctx, nil
}

// Raw returns a plain client of client/v3, without a log. The caller closes it.
func (s *Sim) Raw(name string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: s.Endpoints(), Logger: zap.NewNop(), DialOptions: []grpc.DialOption{
		grpc.WithContextDialer(s.dialer(name)), grpc.WithTransportCredentials(insecure.NewCredentials()),
	}})
}

// dialer returns a function that connects a client to the member with an address.
func (s *Sim) dialer(name string) func(ctx context.Context, addr string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		host, _, _ := strings.Cut(addr, ":")
		m := s.Member(host)
		if m == nil {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return s.network.link(name, m).dial(ctx)
	}
}

// countLookup is the hook for reads of caches.
func (s *Sim) countLookup(context.Context, string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts["operation cache get"]++
}

// Count returns how often each kind of fault, of operation of the library and of request has
// occurred. Keys begin with the word "fault", "operation" or "request".
func (s *Sim) Count() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// arrival is a request that has arrived and not yet been carried out. Requests that arrive at the
// same time are carried out in the order of their keys.
type arrival struct {
	key string
	f   func()
}

// event is something that happens at a time.
type event struct {
	at  time.Time
	seq int
	f   func()
}

// eventQueue is a heap of events in the order of their times.
type eventQueue []*event

// Len returns the number of events.
func (q *eventQueue) Len() int { return len(*q) }

// Less reports whether event i is due before event j.
func (q *eventQueue) Less(i, j int) bool {
	a, b := (*q)[i], (*q)[j]
	return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.seq, b.seq)) < 0
}

// Swap swaps the events i and j.
func (q *eventQueue) Swap(i, j int) { (*q)[i], (*q)[j] = (*q)[j], (*q)[i] }

// Push appends an event.
func (q *eventQueue) Push(x any) { *q = append(*q, x.(*event)) }

// Pop removes and returns the last event.
func (q *eventQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return x
}

// arrive passes a request to the scheduler, which calls f with mu held.
func (s *Sim) arrive(key string, f func()) {
	s.mu.Lock()
	s.inbox = append(s.inbox, arrival{key: key, f: f})
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// after calls f after d, on the scheduler's goroutine and with mu held. The caller holds mu.
func (s *Sim) after(d time.Duration, f func()) {
	s.seq++
	heap.Push(&s.events, &event{at: time.Now().Add(d), seq: s.seq, f: f})
	if !s.acting && s.events[0].seq == s.seq {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// run is the scheduler. It alone changes the state of the cluster. It sleeps for a nanosecond
// before it acts. The synctest clock advances only when all other goroutines are blocked, so by
// then all requests of the same instant have arrived and can be sorted.
func (s *Sim) run() {
	defer close(s.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.mu.Lock()
		if len(s.events) > 0 {
			timer.Reset(time.Until(s.events[0].at))
		}
		s.mu.Unlock()
		select {
		case <-s.stop:
			return
		case <-s.wake:
		case <-timer.C:
		}
		time.Sleep(time.Nanosecond)
		s.mu.Lock()
		s.acting = true
		s.collect()
		for len(s.events) > 0 && !s.events[0].at.After(time.Now()) {
			heap.Pop(&s.events).(*event).f()
		}
		s.acting = false
		s.mu.Unlock()
	}
}

// collect carries out the requests that have arrived.
func (s *Sim) collect() {
	inbox := s.inbox
	s.inbox = nil
	slices.SortStableFunc(inbox, func(a, b arrival) int { return strings.Compare(a.key, b.key) })
	for _, a := range inbox {
		a.f()
	}
}

// draw returns an exponentially distributed duration. It is called by the scheduler only.
func (s *Sim) draw(mean time.Duration) time.Duration {
	return time.Duration(exponential(1-s.rng.Float64()) * float64(mean))
}

// exponential returns the value of an exponential distribution with mean 1 at u, which is greater
// than 0 and at most 1. It is cut off at 8.
func exponential(u float64) float64 { return min(-math.Log(u), 8) }
