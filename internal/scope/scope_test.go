package scope_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/internal/scope"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stats are those of a part with a label.
type stats struct {
	Reads uint64
	Size  int
	Age   time.Duration
}

func table(label string) scope.Table[stats] {
	return scope.Table[stats]{Package: "part", Label: label, Fields: []scope.Field[stats]{
		scope.Counter("reads_total", "Reads.", func(s *stats) uint64 { return s.Reads }),
		scope.Gauge("size", "Size.", func(s *stats) int { return s.Size }),
		scope.Age("age_seconds", "Age.", func(s *stats) time.Duration { return s.Age }),
	}}
}

func track(s *scope.Scope, label, value string, st stats) *scope.Part {
	return scope.Track(s, table(label), value, func() stats { return st })
}

func TestMetrics_AddUpPartsWithEqualLabels(t *testing.T) {
	t.Parallel()
	s := scopetest.New(scope.Hooks{})
	track(s, "dir", "a/", stats{1, 10, time.Second})
	track(s, "dir", "a/", stats{2, 20, 3 * time.Second})
	track(s, "dir", "b/", stats{4, 40, 2 * time.Second})
	assert.Equal(t, map[string]float64{
		"etcdkit_part_reads_total{a/}": 3, "etcdkit_part_size{a/}": 30, "etcdkit_part_age_seconds{a/}": 3,
		"etcdkit_part_reads_total{b/}": 4, "etcdkit_part_size{b/}": 40, "etcdkit_part_age_seconds{b/}": 2,
	}, scopetest.Values(t, s))
	all := s.Metrics()
	for i := range all[1:] {
		assert.LessOrEqual(t, all[i].Name, all[i+1].Name, "the series of a name are next to each other")
	}
}

func TestMetrics_KeepCountersOfClosedParts(t *testing.T) {
	t.Parallel()
	for label, gauges := range map[string]map[string]float64{"": {"etcdkit_part_size": 0}, "dir": {}} {
		s := scopetest.New(scope.Hooks{})
		value, suffix := "", ""
		if label != "" {
			value, suffix = "a/", "{a/}"
		}
		one := track(s, label, value, stats{1, 10, time.Second})
		other := track(s, label, value, stats{2, 20, time.Second})
		one.Close()
		one.Close()
		assert.Equal(t, 3.0, scopetest.Values(t, s)["etcdkit_part_reads_total"+suffix])
		assert.Equal(t, 20.0, scopetest.Values(t, s)["etcdkit_part_size"+suffix])
		other.Close()
		want := map[string]float64{"etcdkit_part_reads_total" + suffix: 3}
		maps.Copy(want, gauges)
		assert.Equal(t, want, scopetest.Values(t, s))
	}
}

func TestMetrics_BoundLabelValues(t *testing.T) {
	t.Parallel()
	s := scopetest.New(scope.Hooks{})
	live := track(s, "dir", "live", stats{Reads: 1})
	for i := range 1000 {
		track(s, "dir", fmt.Sprint("closed-", i), stats{Reads: 1}).Close()
	}
	values := scopetest.Values(t, s)
	assert.Equal(t, 1.0, values["etcdkit_part_reads_total{live}"])
	assert.Equal(t, 1.0, values["etcdkit_part_reads_total{closed-999}"])
	assert.Equal(t, 901.0, values["etcdkit_part_reads_total{other}"], "the oldest were merged")
	for i := range 1000 {
		track(s, "dir", fmt.Sprint("open-", i), stats{Reads: 1, Size: 1})
	}
	values = scopetest.Values(t, s)
	assert.Equal(t, 1.0, values["etcdkit_part_reads_total{open-0}"])
	assert.Equal(t, 901.0, values["etcdkit_part_size{other}"])
	var sum float64
	names := 0
	for name, v := range values {
		if strings.HasPrefix(name, "etcdkit_part_reads_total") {
			sum += v
			names++
		}
	}
	assert.Equal(t, 2001.0, sum)
	assert.Equal(t, 101, names)
	live.Close()
	assert.Equal(t, 1.0, scopetest.Values(t, s)["etcdkit_part_reads_total{live}"])
}

func TestMetrics_LabelsAreUTF8(t *testing.T) {
	t.Parallel()
	s := scopetest.New(scope.Hooks{})
	track(s, "dir", "a\xff/", stats{Reads: 1})
	track(s, "dir", "b\u00fc/", stats{Reads: 2})
	values := scopetest.Values(t, s)
	assert.Equal(t, 1.0, values["etcdkit_part_reads_total{a\uFFFD/}"])
	assert.Equal(t, 2.0, values["etcdkit_part_reads_total{b\u00fc/}"])
}

func TestMetrics_NeverDecreaseWhilePartsClose(t *testing.T) {
	t.Parallel()
	s := scopetest.New(scope.Hooks{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				track(s, "dir", "a/", stats{Reads: 1}).Close()
			}
		})
	}
	last := 0.0
	for range 100 {
		now := scopetest.Values(t, s)["etcdkit_part_reads_total{a/}"]
		require.GreaterOrEqual(t, now, last)
		last = now
	}
	wg.Wait()
	assert.Equal(t, 800.0, scopetest.Values(t, s)["etcdkit_part_reads_total{a/}"])
}

// Each part counts a thousand more whenever it is read, also while it is being closed.
func TestMetrics_NeverDecreaseWhileClosingPartsCount(t *testing.T) {
	t.Parallel()
	s := scopetest.New(scope.Hooks{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				var n atomic.Uint64
				scope.Track(s, table("dir"), "a/", func() stats {
					reads := n.Add(1000)
					runtime.Gosched()
					return stats{Reads: reads}
				}).Close()
			}
		})
	}
	closed := make(chan struct{})
	go func() {
		wg.Wait()
		close(closed)
	}()
	for last, open := 0.0, true; open; {
		select {
		case <-closed:
			open = false
		default:
		}
		now := scopetest.Values(t, s)["etcdkit_part_reads_total{a/}"]
		require.GreaterOrEqual(t, now, last)
		last = now
	}
}

type contextKey struct{}

func TestScope_BeginAcceptsNilResults(t *testing.T) {
	t.Parallel()
	with := context.WithValue(t.Context(), contextKey{}, 1)
	ended := 0
	end := func(r scope.Result) {
		ended++
		assert.Equal(t, scope.Result{Err: errors.ErrUnsupported, Attempts: 2, Revision: 7}, r)
	}
	for _, hook := range []func(context.Context) (context.Context, func(scope.Result)){
		func(context.Context) (context.Context, func(scope.Result)) { return nil, nil },
		func(context.Context) (context.Context, func(scope.Result)) { return with, nil },
		func(context.Context) (context.Context, func(scope.Result)) { return nil, end },
		func(context.Context) (context.Context, func(scope.Result)) { return with, end },
	} {
		want, _ := hook(t.Context())
		s := scopetest.New(scope.Hooks{Operation: func(ctx context.Context, op scope.Operation) (context.Context, func(scope.Result)) {
			assert.Equal(t, scope.Operation{Package: "p", Name: "n", Target: "t"}, op)
			return hook(ctx)
		}})
		ctx, running := s.Begin(t.Context(), scope.Operation{Package: "p", Name: "n", Target: "t"})
		assert.Equal(t, want != nil, ctx.Value(contextKey{}) != nil)
		s.Attempt(ctx)
		s.Attempt(ctx)
		running.End(errors.ErrUnsupported, 7)
	}
	assert.Equal(t, 2, ended)
}

func TestScope_AttemptsCountForOuterOperations(t *testing.T) {
	t.Parallel()
	got := map[string]int{}
	s := scopetest.New(scope.Hooks{Operation: func(_ context.Context, op scope.Operation) (context.Context, func(scope.Result)) {
		return nil, func(r scope.Result) { got[op.Name] = r.Attempts }
	}})
	ctx, outer := s.Begin(t.Context(), scope.Operation{Name: "outer"})
	inside, inner := s.Begin(ctx, scope.Operation{Name: "inner"})
	s.Attempt(inside)
	s.Attempt(ctx)
	s.Attempt(t.Context())
	inner.End(nil, 0)
	outer.End(nil, 0)
	assert.Equal(t, map[string]int{"inner": 1, "outer": 2}, got)
}

func TestScope_RecoversAndLogsPanicsOfHooks(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	boom := func() { panic("boom") }
	s := scope.New(slog.New(slog.NewTextHandler(&out, nil)), scope.Hooks{
		Operation: func(_ context.Context, op scope.Operation) (context.Context, func(scope.Result)) {
			if op.Name == "begin" {
				boom()
			}
			return nil, func(scope.Result) { boom() }
		},
		Retry:       func(context.Context, scope.Operation, int, error) { boom() },
		LeaseLost:   func(context.Context, error) { boom() },
		WatchResync: func(context.Context, string, int) { boom() },
		CacheLookup: func(context.Context, string, bool) { boom() },
	})
	ctx := t.Context()
	for _, name := range []string{"begin", "end"} {
		bound, running := s.Begin(ctx, scope.Operation{Name: name})
		require.NoError(t, bound.Err())
		running.End(nil, 0)
	}
	s.Retry(ctx, scope.Operation{}, 1, errors.ErrUnsupported)
	s.LeaseLost(ctx, errors.ErrUnsupported)
	require.NoError(t, s.WaitHooks(ctx))
	s.WatchResync(ctx, "", 1)
	s.CacheLookup()(ctx, "", true)
	assert.Equal(t, 6, strings.Count(out.String(), "observer hook panicked"), out.String())
	assert.Equal(t, 2, strings.Count(out.String(), "hook=Operation"))
}

func TestScope_CostsNothingWithoutHooks(t *testing.T) { //nolint:paralleltest // allocations of other tests would count
	for name, s := range map[string]*scope.Scope{"no scope": nil, "no hooks": scopetest.New(scope.Hooks{})} {
		ctx := t.Context()
		allocs := testing.AllocsPerRun(1000, func() {
			bound, running := s.Begin(ctx, scope.Operation{Package: "kv", Name: "put"})
			s.Attempt(bound)
			s.Retry(bound, scope.Operation{Package: "kv", Name: "put"}, 1, errors.ErrUnsupported)
			running.End(nil, 1)
			s.BeginDetached(ctx, scope.Operation{Package: "lock", Name: "hold"}).EndSoon(nil, 1)
			_ = s.CacheLookup()
		})
		assert.Zero(t, allocs, name)
	}
}

// BenchmarkScope_BeginWithoutHooks is what an operation costs that nobody observes.
func BenchmarkScope_BeginWithoutHooks(b *testing.B) {
	s, ctx := scopetest.New(scope.Hooks{}), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		bound, running := s.Begin(ctx, scope.Operation{Package: "kv", Name: "put"})
		s.Attempt(bound)
		running.End(nil, 1)
	}
}
