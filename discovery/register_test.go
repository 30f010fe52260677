package discovery_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

func TestRegistration_Lifecycle(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	mine, p := newProcess(t, dir)
	theirs, _ := newProcess(t, dir)
	s := view(t, theirs, "orders")
	assert.Empty(t, s.Instances())

	i := newInstance("orders", "a")
	i.Version, i.Zone, i.Weight, i.Scheme, i.Tags, i.Metadata = "v1", "eu", 3, "https", []string{"blue"}, map[string]string{"k": "v"}
	reg := register(t, mine, i, discovery.WithDrainDelay(time.Millisecond))
	assert.Equal(t, discovery.Registered, reg.State())
	waitForInstances(t, s, "a")
	got := s.Instances()[0]
	assert.False(t, got.Registered.IsZero())
	assert.Equal(t, discovery.Up, got.Status)
	assert.Equal(t, "https://10.0.0.1:8080", got.URL())
	want := i
	want.Status, want.Registered = discovery.Up, got.Registered
	assert.Equal(t, want, got)
	assert.Equal(t, want, reg.Instance())
	assert.Contains(t, keyLeases(t, p.Raw, dir), dir+"services/orders/instances/a")

	i.Port = 9090
	require.NoError(t, reg.Update(withTestTimeout(t), i))
	parttest.Eventually(t, func() bool { return s.Instances()[0].Port == 9090 })
	assert.True(t, got.Registered.Equal(s.Instances()[0].Registered), "an update is not a registration")

	require.NoError(t, reg.Drain(withTestTimeout(t)))
	assert.Equal(t, discovery.Leaving, reg.State())
	parttest.Eventually(t, func() bool { return s.Instances()[0].Status == discovery.Draining })
	require.NoError(t, reg.Update(withTestTimeout(t), newInstance("", "")), "also while it drains, and what it is called need not be said")
	parttest.Eventually(t, func() bool { return s.Instances()[0].Port == 8080 && s.Instances()[0].Status == discovery.Draining })

	require.NoError(t, reg.Close())
	require.NoError(t, reg.Close())
	assert.Equal(t, discovery.Closed, reg.State())
	require.ErrorIs(t, context.Cause(reg.Context()), discovery.ErrClosed)
	require.ErrorIs(t, reg.Update(withTestTimeout(t), i), discovery.ErrClosed)
	require.ErrorIs(t, reg.Drain(withTestTimeout(t)), discovery.ErrClosed)
	waitForInstances(t, s)
	assert.Empty(t, keyLeases(t, p.Raw, dir))
}

func TestArguments_InvalidOnesAreRefusedUnsent(t *testing.T) {
	t.Parallel()
	counter := etcdtest.Counter(t)
	r, _ := newRegistry(t, counter.Client(t, parttest.Harden), etcdtest.Prefix(t))
	cases := map[string]func(i *discovery.Instance){
		"no service":                 func(i *discovery.Instance) { i.Service = "" },
		"a slash in the service":     func(i *discovery.Instance) { i.Service = "a/b" },
		"no id":                      func(i *discovery.Instance) { i.ID = "" },
		"a slash in the id":          func(i *discovery.Instance) { i.ID = "a/b" },
		"a NUL in the id":            func(i *discovery.Instance) { i.ID = "a\x00" },
		"a control character":        func(i *discovery.Instance) { i.Service = "a\n" },
		"513 bytes of service":       func(i *discovery.Instance) { i.Service = strings.Repeat("s", 513) },
		"an id that is not UTF-8":    func(i *discovery.Instance) { i.ID = "\xff" },
		"no host":                    func(i *discovery.Instance) { i.Host = "" },
		"a host with a port":         func(i *discovery.Instance) { i.Host = "10.0.0.1:80" },
		"a host in brackets":         func(i *discovery.Instance) { i.Host = "[::1]" },
		"a host that is a URL":       func(i *discovery.Instance) { i.Host = "http://x" },
		"a host with a NUL":          func(i *discovery.Instance) { i.Host = "x\x00" },
		"a host with a space":        func(i *discovery.Instance) { i.Host = "x y" },
		"a host of 256 bytes":        func(i *discovery.Instance) { i.Host = strings.Repeat("h", 256) },
		"port 0":                     func(i *discovery.Instance) { i.Port = 0 },
		"port 70000":                 func(i *discovery.Instance) { i.Port = 70000 },
		"port -1":                    func(i *discovery.Instance) { i.Port = -1 },
		"weight -1":                  func(i *discovery.Instance) { i.Weight = -1 },
		"weight 65537":               func(i *discovery.Instance) { i.Weight = 65537 },
		"a scheme with a colon":      func(i *discovery.Instance) { i.Scheme = "http:" },
		"a version with a newline":   func(i *discovery.Instance) { i.Version = "1\n2" },
		"a zone of 256 bytes":        func(i *discovery.Instance) { i.Zone = strings.Repeat("z", 256) },
		"an empty tag":               func(i *discovery.Instance) { i.Tags = []string{""} },
		"tags of 1025 bytes":         func(i *discovery.Instance) { i.Tags = []string{strings.Repeat("t", 1025)} },
		"1 MB of metadata":           func(i *discovery.Instance) { i.Metadata = map[string]string{"k": strings.Repeat("v", 1<<20)} },
		"metadata of 1025 bytes":     func(i *discovery.Instance) { i.Metadata = map[string]string{"k": strings.Repeat("v", 1024)} },
		"metadata without a name":    func(i *discovery.Instance) { i.Metadata = map[string]string{"": "v"} },
		"metadata that is not UTF-8": func(i *discovery.Instance) { i.Metadata = map[string]string{"k": "\xff"} },
		"a status of its own":        func(i *discovery.Instance) { i.Status = "tired" },
	}
	for name, spoil := range cases {
		i := newInstance("orders", "a")
		spoil(&i)
		_, err := r.Register(t.Context(), i)
		require.ErrorIs(t, err, discovery.ErrInvalid, name)
		_, err = r.Register(t.Context(), i, discovery.WithoutWaiting())
		require.ErrorIs(t, err, discovery.ErrInvalid, name)
		assert.Contains(t, err.Error(), "discovery: register ")
		assert.Less(t, len(err.Error()), 1000, name)
	}
	_, err := r.Register(t.Context(), newInstance("orders", "a"), discovery.WithDrainDelay(-1))
	require.ErrorIs(t, err, discovery.ErrInvalid)
	for _, name := range []string{"", "a/b", "\x00"} {
		_, err = r.OpenService(t.Context(), name)
		require.ErrorIs(t, err, discovery.ErrInvalid)
	}
	for _, validationErr := range []discovery.Option{discovery.WithTTL(time.Millisecond), discovery.WithGrace(-1), discovery.WithEjection(-1, 0)} {
		_, err = discovery.New(parttest.New(t, etcdtest.Client(t), "x/"), validationErr)
		require.ErrorIs(t, err, discovery.ErrInvalid)
	}
	_, err = discovery.New(nil, discovery.WithTTL(time.Millisecond), discovery.WithGrace(-1))
	require.ErrorIs(t, err, discovery.ErrInvalid)
	for _, text := range []string{"discovery: new: ", "nil client", "TTL 1ms", "grace period -1ns"} {
		require.ErrorContains(t, err, text)
	}
	assert.Zero(t, counter.Total(), counter.Counts())

	_, err = r.Register(t.Context(), discovery.Instance{Port: 70000, Weight: -1})
	for _, complaint := range []string{"service", "id", "port 70000", "host is empty", "weight -1"} {
		assert.ErrorContains(t, err, complaint)
	}
}

func TestRegister_ReturnsTakenErrorForLiveHolder(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	one, _ := newProcess(t, dir, discovery.WithTTL(3*time.Second))
	other, p := newProcess(t, dir, discovery.WithTTL(3*time.Second))
	register(t, one, newInstance("orders", "a"))
	elsewhere := newInstance("orders", "a")
	elsewhere.Host = "10.0.0.2"
	_, err := other.Register(withTestTimeout(t), elsewhere)
	require.ErrorIs(t, err, discovery.ErrTaken)
	taken, ok := errors.AsType[*discovery.TakenError](err)
	require.True(t, ok)
	assert.Equal(t, "10.0.0.1", taken.Holder.Host)
	assert.True(t, taken.Renewed)
	assert.ErrorContains(t, err, `discovery: register "orders/a": instance id taken by 10.0.0.1:8080, registered at `)
	assert.ErrorContains(t, err, "is being renewed")
	_, err = one.Register(withTestTimeout(t), newInstance("orders", "a"))
	require.ErrorIs(t, err, discovery.ErrTaken)
	assert.ErrorContains(t, err, "by this process")
	assert.Len(t, keyLeases(t, p.Raw, dir), 1)

	_, err = p.Raw.Put(t.Context(), dir+"services/orders/instances/b", "whatever")
	require.NoError(t, err)
	_, err = other.Register(withTestTimeout(t), newInstance("orders", "b"))
	require.ErrorIs(t, err, discovery.ErrTaken)
	assert.ErrorContains(t, err, "has no lease")
}

func TestRegister_WaitsForLeaseOfCrashedProcess(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	r, p := newProcess(t, dir)
	key := dir + "services/orders/instances/a"
	leftover(t, p.Raw, key, 3)
	began := time.Now()
	reg := register(t, r, newInstance("orders", "a"))
	took := time.Since(began)
	t.Logf("registered %v after a lease of 3 s was granted", took)
	assert.Greater(t, took, 2*time.Second)
	checkDuration(t, took, 4*time.Second)
	require.NoError(t, reg.Close())

	leftover(t, p.Raw, key, 60)
	short, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	_, err := r.Register(short, newInstance("orders", "a"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, discovery.ErrTaken)
	assert.ErrorContains(t, err, "10.9.9.9:1")
	assert.Len(t, keyLeases(t, p.Raw, dir), 1)

	reg = register(t, r, newInstance("orders", "a"), discovery.WithTakeover())
	require.NoError(t, reg.Close())
	assert.Empty(t, keyLeases(t, p.Raw, dir))
}

func TestRegister_ReplacesPredecessorAtTheSameAddress(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	var logged bytes.Buffer
	r, p := newProcess(t, dir, discovery.WithLogger(slog.New(slog.NewTextHandler(&logged, nil))))
	key := dir + "services/orders/instances/a"
	old := leftoverAt(t, p.Raw, key, `{"host":"10.0.0.1","port":8080}`, 3600) // nobody could wait for it
	reg := register(t, r, newInstance("orders", "a"))
	assert.NotEqual(t, int64(old), keyLeases(t, p.Raw, dir)[key])
	assert.Empty(t, logged.String())
	require.NoError(t, reg.Close())

	_, err := p.Raw.Put(t.Context(), key, `{"host":"10.0.0.1","port":8080}`)
	require.NoError(t, err)
	_, err = r.Register(withTestTimeout(t), newInstance("orders", "a"))
	require.ErrorIs(t, err, discovery.ErrTaken, "a key without a lease was written by hand")
}

// The holder is alive for certain, whatever its address is and whichever registry of the client it
// belongs to.
func TestRegister_LeavesARegistrationOfTheSameClientAlone(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	one, p := newProcess(t, dir)
	other := etcdtest.Must(discovery.New(p))
	t.Cleanup(func() { assert.NoError(t, other.Close()) })
	first := register(t, one, newInstance("orders", "a"))
	before, err := p.Raw.Get(t.Context(), dir+"services/orders/instances/a")
	require.NoError(t, err)
	for _, opts := range [][]discovery.RegisterOption{nil, {discovery.WithTakeover()}} {
		_, err = other.Register(withTestTimeout(t), newInstance("orders", "a"), opts...)
		require.ErrorIs(t, err, discovery.ErrTaken)
		require.ErrorContains(t, err, "by this process")
	}
	after, err := p.Raw.Get(t.Context(), dir+"services/orders/instances/a")
	require.NoError(t, err)
	require.Len(t, after.Kvs, 1)
	assert.Equal(t, before.Kvs[0].ModRevision, after.Kvs[0].ModRevision, "it was not deleted in between")
	require.NoError(t, first.Close())
	register(t, other, newInstance("orders", "a"))
}

func TestRegister_LogsWhatItWaitsForAtOnce(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	log := &parttest.Recorder[string]{}
	r, p := newProcess(t, dir, discovery.WithLogger(warnings(log)))
	leftover(t, p.Raw, dir+"services/orders/instances/a", 3600)
	ctx, stop := context.WithCancel(withTestTimeout(t))
	failed := make(chan error)
	go func() { _, err := r.Register(ctx, newInstance("orders", "a")); failed <- err }()
	parttest.Eventually(t, func() bool { return len(log.All()) == 1 }) // while Register waits for an hour
	line := log.All()[0]
	assert.Contains(t, line, `msg="instance id is taken; registration waits for the holder's lease to expire"`)
	assert.Contains(t, line, "key=services/orders/instances/a holder=10.9.9.9:1")
	stop()
	require.ErrorIs(t, <-failed, context.Canceled)
}

func TestRegister_LogsOnceThatALivingHolderIsWaitedFor(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	one, _ := newProcess(t, dir, discovery.WithTTL(3*time.Second))
	first := register(t, one, newInstance("orders", "a"))
	log := &parttest.Recorder[string]{}
	other, p := newProcess(t, dir, discovery.WithTTL(3*time.Second), discovery.WithLogger(warnings(log)))
	elsewhere := newInstance("orders", "a")
	elsewhere.Host = "10.0.0.2"
	reg, err := other.Register(t.Context(), elsewhere, discovery.WithoutWaiting())
	require.NoError(t, err)
	for range 3 { // attempts, each of which watches the key until it is known that the holder lives
		parttest.Eventually(t, func() bool { return p.Watcher().Stats().Active == 1 })
		parttest.Eventually(t, func() bool { return p.Watcher().Stats().Active == 0 })
	}
	require.Len(t, log.All(), 2)
	assert.Contains(t, log.All()[0], "instance id is taken")
	assert.Contains(t, log.All()[1], "instance not registered; retrying")
	require.NoError(t, first.Close())
	parttest.Eventually(t, func() bool { return reg.State() == discovery.Registered })
	parttest.Eventually(t, func() bool { return len(log.All()) == 3 })
	assert.Contains(t, log.All()[2], "instance registered")
}

// warnings returns a logger that adds its records from Warn up to a journal.
func warnings(j *parttest.Recorder[string]) *slog.Logger {
	return slog.New(slog.NewTextHandler(journalWriter{j}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type journalWriter struct{ j *parttest.Recorder[string] }

func (w journalWriter) Write(b []byte) (int, error) {
	w.j.Add(string(b))
	return len(b), nil
}

func TestWithTakeover_SuspendsLiveHolder(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	one, p := newProcess(t, dir)
	other, _ := newProcess(t, dir)
	first := register(t, one, newInstance("orders", "a"))
	i := newInstance("orders", "a")
	i.Port = 9
	second := register(t, other, i, discovery.WithTakeover())
	parttest.Eventually(t, func() bool { return first.State() == discovery.Suspended })
	assert.Equal(t, discovery.Registered, second.State())
	s := view(t, one, "orders")
	assert.Equal(t, 9, s.Instances()[0].Port)
	i.Port = 10
	err := first.Update(withTestTimeout(t), i)
	require.ErrorIs(t, err, discovery.ErrTaken)
	assert.EqualError(t, err, `discovery: update "orders/a": instance id taken since it was registered here`)
	require.NoError(t, second.Close())
	parttest.Eventually(t, func() bool { return first.State() == discovery.Registered })
	parttest.Eventually(t, func() bool { return len(s.Instances()) == 1 && s.Instances()[0].Port == 10 }, "what it was told meanwhile")
	require.NoError(t, first.Close())
	assert.Empty(t, keyLeases(t, p.Raw, dir))
}

func TestRegister_WriteByHolderIsSignOfLife(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	one, _ := newProcess(t, dir, discovery.WithTTL(time.Hour))
	other, p := newProcess(t, dir)
	first := register(t, one, newInstance("orders", "a"))
	watches := p.Watcher().Stats().Active
	taken := make(chan error)
	go func() {
		elsewhere := newInstance("orders", "a")
		elsewhere.Host = "10.0.0.2"
		_, err := other.Register(withTestTimeout(t), elsewhere)
		taken <- err
	}()
	parttest.Eventually(t, func() bool { return p.Watcher().Stats().Active > watches })
	i := newInstance("orders", "a")
	for n := 1; ; n++ {
		i.Port = n
		require.NoError(t, first.Update(withTestTimeout(t), i))
		select {
		case err := <-taken:
			require.ErrorIs(t, err, discovery.ErrTaken)
			assert.ErrorContains(t, err, "is being renewed")
			assert.Equal(t, watches, p.Watcher().Stats().Active)
			return
		case <-time.NewTimer(10 * time.Millisecond).C:
		}
	}
}

func TestCost_InRPCs(t *testing.T) {
	t.Parallel()
	counter := etcdtest.Counter(t)
	r, _ := newRegistry(t, counter.Client(t, parttest.Harden), etcdtest.Prefix(t))
	costs := func(want map[string]int, f func()) {
		t.Helper()
		counter.Reset()
		f()
		got := counter.Counts()
		for _, stream := range []string{"Watch/Watch", "Lease/LeaseKeepAlive"} {
			delete(got, stream)
		}
		assert.Equal(t, want, got)
	}
	var reg *discovery.Registration
	i := newInstance("orders", "a")
	costs(map[string]int{"KV/Txn": 1, "Lease/LeaseGrant": 1}, func() { reg = register(t, r, i, discovery.WithDrainDelay(0)) })
	costs(map[string]int{"KV/Txn": 1}, func() { register(t, r, newInstance("orders", "b")) })
	i.Port++
	costs(map[string]int{"KV/Txn": 1}, func() { require.NoError(t, reg.Update(t.Context(), i)) })
	costs(map[string]int{}, func() { require.NoError(t, reg.Update(t.Context(), i)) })
	costs(map[string]int{"KV/Txn": 1}, func() { require.NoError(t, reg.Drain(t.Context())) })
	costs(map[string]int{}, func() { require.NoError(t, reg.Drain(t.Context())) })
	costs(map[string]int{"KV/Txn": 1}, func() { require.NoError(t, reg.Close()) })
	reg = register(t, r, i)
	costs(map[string]int{"KV/Txn": 2}, func() { require.NoError(t, reg.Close()) })
	s := view(t, r, "orders")
	costs(map[string]int{}, func() {
		view(t, r, "orders")
		_, err := s.Picker(nil).Pick()
		require.NoError(t, err)
		s.Instances()
		s.Age()
		s.Stats()
	})
}

func TestRegistration_LateCloseLeavesSuccessorAlone(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	old, p := newProcess(t, dir)
	young, _ := newProcess(t, dir)
	for range shortOrLong(5, 50) {
		first := register(t, old, newInstance("orders", "a"))
		second := register(t, young, newInstance("orders", "a"), discovery.WithTakeover())
		require.NoError(t, first.Close())
		assert.Equal(t, discovery.Registered, second.State())
		assert.Len(t, keyLeases(t, p.Raw, dir), 1)
		require.NoError(t, second.Close())
		assert.Empty(t, keyLeases(t, p.Raw, dir))
	}
}

func TestWithoutWaiting_RetriesUntilSuccess(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	log := &parttest.Recorder[string]{}
	r, p := newRegistry(t, srv.Client(t, parttest.Harden), "app", discovery.WithLogger(warnings(log)))
	srv.Kill()
	reg, err := r.Register(t.Context(), newInstance("orders", "a"), discovery.WithoutWaiting())
	require.NoError(t, err)
	assert.Equal(t, discovery.Suspended, reg.State())
	i := newInstance("orders", "a")
	i.Port = 1
	require.NoError(t, reg.Update(t.Context(), i))
	short, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	_, err = r.Register(short, newInstance("orders", "b"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = r.OpenService(short, "orders")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	parttest.Eventually(t, func() bool { return len(log.All()) == 1 })
	srv.Restart()
	parttest.Eventually(t, func() bool { return reg.State() == discovery.Registered })
	parttest.Eventually(t, func() bool { return len(log.All()) > 1 })
	require.Len(t, log.All(), 2, "one record when it begins to fail, one when it succeeds")
	assert.Contains(t, log.All()[0], `msg="instance not registered; retrying"`)
	assert.Contains(t, log.All()[1], `msg="instance registered"`)
	assert.Equal(t, 1, view(t, r, "orders").Instances()[0].Port)
	require.NoError(t, r.Close())
	assert.Empty(t, keyLeases(t, p.Raw, "app"), "nothing was left of the one that failed")
	assert.Equal(t, discovery.Closed, reg.State())
	_, err = r.Register(t.Context(), newInstance("orders", "a"))
	require.ErrorIs(t, err, discovery.ErrClosed)
}

func TestWithoutWaiting_CloseEndsRetries(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	r, p := newProcess(t, dir)
	leftover(t, p.Raw, dir+"services/orders/instances/a", 60)
	reg, err := r.Register(t.Context(), newInstance("orders", "a"), discovery.WithoutWaiting())
	require.NoError(t, err)
	waiting := make(chan error)
	go func() {
		_, err := r.Register(withTestTimeout(t), newInstance("orders", "c"))
		if err == nil {
			_, err = r.Register(withTestTimeout(t), newInstance("users", "a"))
		}
		waiting <- err
	}()
	require.NoError(t, <-waiting)
	leftover(t, p.Raw, dir+"services/orders/instances/b", 60)
	go func() {
		_, err := r.Register(withTestTimeout(t), newInstance("orders", "b"))
		waiting <- err
	}()
	parttest.Eventually(t, func() bool { return len(keyLeases(t, p.Raw, dir)) == 4 })
	require.NoError(t, r.Close())
	require.ErrorIs(t, <-waiting, discovery.ErrClosed)
	assert.Equal(t, discovery.Closed, reg.State())
	assert.Len(t, keyLeases(t, p.Raw, dir), 2, "what is not ours stays")
}

func TestRegistration_EndsWithClient(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t))
	reg := register(t, r, newInstance("orders", "a"))
	s := view(t, r, "orders")
	leftover(t, p.Raw, p.Dir+"services/orders/instances/b", 60)
	trying, err := r.Register(t.Context(), newInstance("orders", "b"), discovery.WithoutWaiting())
	require.NoError(t, err)
	require.NoError(t, p.Leases().Close())
	<-reg.Context().Done()
	<-trying.Context().Done()
	require.ErrorIs(t, context.Cause(reg.Context()), discovery.ErrClosed)
	assert.Equal(t, discovery.Closed, reg.State())
	require.NoError(t, p.Watcher().Close())
	parttest.Eventually(t, func() bool { return s.Err() != nil })
	require.NoError(t, r.Close())
}

func TestRegistry_OpenCloseStorm(t *testing.T) {
	t.Parallel()
	p := parttest.New(t, etcdtest.Client(t, parttest.Harden), etcdtest.Prefix(t))
	done := make(chan struct{})
	for g := range 10 {
		go func() {
			defer func() { done <- struct{}{} }()
			for range shortOrLong(5, 50) {
				r := etcdtest.Must(discovery.New(p))
				reg, err := r.Register(withTestTimeout(t), newInstance("orders", string(rune('a'+g))))
				if !assert.NoError(t, err) {
					return
				}
				s, err := r.OpenService(withTestTimeout(t), "orders")
				if !assert.NoError(t, err) {
					return
				}
				stop := s.Follow(func([]discovery.Instance) {})
				go stop()
				go s.Close()
				go reg.Close()
				assert.NoError(t, r.Close())
			}
		}()
	}
	for range 10 {
		<-done
	}
	assert.Empty(t, keyLeases(t, p.Raw, p.Dir))
}
