package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

// newServiceOf returns a view of n instances of the service "s", with the IDs "00" and so on.
// member returns the rest of each value.
func newServiceOf(tb testing.TB, n int, member func(i int) string, o ...discovery.Option) (*discovery.Service, *parttest.Parts) {
	tb.Helper()
	r, p := newProcess(tb, etcdtest.Prefix(tb), o...)
	for i := range n {
		more := ""
		if member != nil {
			more = "," + member(i)
		}
		put(tb, p, fmt.Sprintf("services/s/instances/%02d", i), fmt.Sprintf(`{"host":"h","port":%d%s}`, i+1, more))
	}
	return view(tb, r, "s"), p
}

// countPicks picks n times, each done at once, and counts by ID.
func countPicks(tb testing.TB, p *discovery.Picker, n int) map[string]int {
	tb.Helper()
	out := map[string]int{}
	for range n {
		k, err := p.Pick()
		require.NoError(tb, err)
		out[k.Instance.ID]++
		k.Done(nil)
	}
	return out
}

func TestRoundRobin_TakesTurns(t *testing.T) {
	t.Parallel()
	s, _ := newServiceOf(t, 4, nil)
	for _, policy := range []discovery.Policy{discovery.RoundRobin(), nil} {
		assert.Equal(t, map[string]int{"00": 25, "01": 25, "02": 25, "03": 25}, countPicks(t, s.Picker(policy), 100))
	}
	firsts := map[string]bool{}
	for range 100 {
		k, err := s.Picker(discovery.RoundRobin()).Pick()
		require.NoError(t, err)
		firsts[k.Instance.ID] = true
	}
	assert.Len(t, firsts, 4, "not everybody begins with the same")
}

func TestPolicies_SpreadPicks(t *testing.T) {
	t.Parallel()
	s, _ := newServiceOf(t, 4, func(i int) string { return fmt.Sprintf(`"weight":%d`, i+1) })
	const n = 20000
	for name, policy := range map[string]discovery.Policy{"random": discovery.Random(), "sticky without a key": discovery.Sticky()} {
		for id, got := range countPicks(t, s.Picker(policy), n) {
			assert.InEpsilon(t, n/4, got, 0.1, "%s: %s", name, id)
		}
	}
	for id, got := range countPicks(t, s.Picker(discovery.Weighted()), n) {
		want := n / 10 * int(id[1]-'0'+1)
		assert.InEpsilon(t, want, got, 0.15, id)
	}
	equal, _ := newServiceOf(t, 4, nil)
	for id, got := range countPicks(t, equal.Picker(discovery.Weighted()), n) {
		assert.InEpsilon(t, n/4, got, 0.1, id)
	}
}

func TestLeastLoaded_BalancesLoadByWeight(t *testing.T) {
	t.Parallel()
	s, _ := newServiceOf(t, 4, func(i int) string { return fmt.Sprintf(`"weight":%d`, 1+i/2) })
	p := s.Picker(discovery.LeastLoaded())
	load := map[string]int{}
	var open []discovery.Pick
	for range 600 { // that are never done
		k, err := p.Pick()
		require.NoError(t, err)
		load[k.Instance.ID]++
		open = append(open, k)
	}
	for id, want := range map[string]int{"00": 100, "01": 100, "02": 200, "03": 200} {
		assert.InDelta(t, want, load[id], 20, id)
	}
	for _, k := range open {
		k.Done(nil)
	}
	one, _ := newServiceOf(t, 1, nil)
	assert.Equal(t, map[string]int{"00": 3}, countPicks(t, one.Picker(discovery.LeastLoaded()), 3))
}

func TestLeastLoaded_PrefersHigherWeightsWithoutLoad(t *testing.T) {
	t.Parallel()
	s, _ := newServiceOf(t, 3, func(i int) string { return fmt.Sprintf(`"weight":%d`, []int{1, 1, 8}[i]) })
	const n = 3000
	got := countPicks(t, s.Picker(discovery.LeastLoaded()), n) // one call at a time
	assert.InEpsilon(t, n*2/3, got["02"], 0.1, "it wins each of the two pairs of three that it is in")
	assert.InEpsilon(t, n/6, got["00"], 0.2)
	assert.InEpsilon(t, n/6, got["01"], 0.2)
}

func TestSticky_KeepsKeysOnInstances(t *testing.T) {
	t.Parallel()
	for name, member := range map[string]func(i int) string{
		"equal weights": nil,
		"other weights": func(i int) string { return fmt.Sprintf(`"weight":%d`, 1+i%2) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, p := newServiceOf(t, 10, member)
			other := view(t, etcdtest.Must(discovery.New(p)), "s")
			const keys = 20000
			owner := func(s *discovery.Service) []string {
				picker := s.Picker(discovery.Sticky())
				out := make([]string, keys)
				for n := range keys {
					k, err := picker.PickFor(fmt.Sprint("user/", n))
					require.NoError(t, err)
					out[n] = k.Instance.ID
					k.Done(nil)
				}
				return out
			}
			before := owner(s)
			assert.Equal(t, before, owner(other), "all processes agree")
			share, weights := map[string]int{}, 0
			for _, id := range before {
				share[id]++
			}
			for _, i := range s.Instances() {
				weights += max(i.Weight, 1)
			}
			for _, i := range s.Instances() {
				assert.InEpsilon(t, keys*max(i.Weight, 1)/weights, share[i.ID], 0.15, i.ID)
			}
			put(t, p, "services/s/instances/07", `{"host":"h","port":1,"status":"draining"}`)
			parttest.Eventually(t, func() bool { return s.Stats().Draining == 1 })
			for n, id := range owner(s) {
				if before[n] != "07" && before[n] != id {
					require.Equal(t, before[n], id, "only the keys of the one that goes move")
				}
				require.NotEqual(t, "07", id)
			}
		})
	}
}

func TestPicker_HonorsFiltersAndZone(t *testing.T) {
	t.Parallel()
	s, p := newServiceOf(t, 4, func(i int) string { return fmt.Sprintf(`"zone":"%d","version":"v%d"`, i%2, i/2) })
	in := func(want ...string) map[string]int {
		out := map[string]int{}
		for _, id := range want {
			out[id] = 12 / len(want)
		}
		return out
	}
	near := s.Picker(nil, discovery.PreferZone("0", 2))
	both := s.Picker(nil, discovery.OnlyVersion("v1"), discovery.PreferZone("1", 0))
	assert.Equal(t, in("00", "02"), countPicks(t, near, 12))
	assert.Equal(t, in("03"), countPicks(t, both, 12))
	assert.Equal(t, in("00", "01", "02", "03"), countPicks(t, s.Picker(nil, discovery.PreferZone("0", 3)), 12), "too few")
	assert.Equal(t, in("00", "01", "02", "03"), countPicks(t, s.Picker(nil, discovery.PreferZone("", 1), nil), 12), "no wish")
	put(t, p, "services/s/instances/02", `{"host":"h","port":1,"zone":"0","status":"draining"}`)
	parttest.Eventually(t, func() bool { return s.Stats().Draining == 1 })
	assert.Equal(t, in("00", "01", "03"), countPicks(t, near, 12), "too few that are up")
	_, err := s.Picker(nil, discovery.OnlyVersion("v9")).Pick()
	require.ErrorIs(t, err, discovery.ErrNoInstance)
	assert.EqualError(t, err, `discovery: pick "s": no instance`)
	put(t, p, "services/s/instances/00", `{"host":"h","port":1,"zone":"0","status":"draining"}`)
	parttest.Eventually(t, func() bool { return s.Stats().Draining == 2 })
	assert.Equal(t, in("00", "02"), countPicks(t, s.Picker(nil, discovery.OnlyZone("0")), 12), "better than nothing")
}

// fakePolicy is a custom policy.
type fakePolicy struct{ answer int }

func (f fakePolicy) Choose(c discovery.Candidates, key string) int {
	if c.Len() == 0 || c.At(0).ID == "" || c.Load(0) < 0 || key != "k" {
		return -2
	}
	return f.answer
}

func TestPicker_CustomPolicy(t *testing.T) {
	t.Parallel()
	s, _ := newServiceOf(t, 3, nil)
	k, err := s.Picker(fakePolicy{2}).PickFor("k")
	require.NoError(t, err)
	assert.Equal(t, "02", k.Instance.ID)
	for _, answer := range []int{-1, 3} {
		_, err = s.Picker(fakePolicy{answer}).PickFor("k")
		require.Error(t, err, "a bad answer is no panic")
	}
	discovery.Pick{}.Done(nil) // of a pick that failed
}

func TestPicker_EjectsFailingInstances(t *testing.T) {
	t.Parallel()
	const away = 2 * time.Second
	s, p := newServiceOf(t, 4, nil, discovery.WithEjection(3, away))
	picker := s.Picker(nil)
	validationErr := errors.New("refused")
	fail := func(times int, err error, ids ...string) {
		t.Helper()
		failPicks(t, picker, times, err, ids...)
	}
	fail(2, validationErr, "00")
	fail(2, validationErr, "00")
	fail(100, context.Canceled, "00")
	assert.Len(t, countPicks(t, picker, 40), 4, "a success in between, and what was canceled, do not count")
	began := time.Now()
	fail(3, validationErr, "00")
	assert.NotContains(t, countPicks(t, picker, 40), "00")
	parttest.Eventually(t, func() bool { return len(countPicks(t, picker, 40)) == 4 })
	assert.GreaterOrEqual(t, time.Since(began), away)

	began = time.Now()
	fail(100, validationErr, "00", "01", "02", "03")
	assert.Len(t, countPicks(t, picker, 40), 2, "never more than half")
	parttest.Eventually(t, func() bool { return len(countPicks(t, picker, 40)) == 4 })
	assert.GreaterOrEqual(t, time.Since(began), away)

	fail(3, validationErr, "03")
	assert.NotContains(t, countPicks(t, picker, 40), "03")
	put(t, p, "services/s/instances/03", `{"host":"other","port":1}`)
	parttest.Eventually(t, func() bool { return countPicks(t, picker, 40)["03"] > 0 }, "another process has not failed yet")
	never, _ := newServiceOf(t, 2, nil, discovery.WithEjection(0, 0))
	picker = never.Picker(nil)
	fail(100, validationErr, "00")
	assert.Len(t, countPicks(t, picker, 40), 2)
}

// failPicks picks 400 times, and lets so many of the picks of each of some instances fail.
func failPicks(t *testing.T, p *discovery.Picker, times int, err error, ids ...string) {
	t.Helper()
	failed := map[string]int{}
	for range 400 {
		k, validationErr := p.Pick()
		require.NoError(t, validationErr)
		id := k.Instance.ID
		if slices.Contains(ids, id) && failed[id] < times {
			failed[id]++
			k.Done(err)
		} else {
			k.Done(nil)
		}
	}
}

func TestPicker_EjectsAtMostHalf(t *testing.T) {
	t.Parallel()
	s, p := newServiceOf(t, 4, nil, discovery.WithEjection(3, time.Hour))
	picker := s.Picker(nil)
	failPicks(t, picker, 3, errors.New("refused"), "00", "01")
	assert.Equal(t, map[string]int{"02": 20, "03": 20}, countPicks(t, picker, 40))
	for _, id := range []string{"02", "03"} {
		put(t, p, "services/s/instances/"+id, `{"host":"h","port":1,"status":"draining"}`)
	}
	parttest.Eventually(t, func() bool { return s.Stats().Draining == 2 })
	assert.Len(t, countPicks(t, picker, 40), 1)
}

func TestPicker_PicksWhileInstancesChange(t *testing.T) {
	t.Parallel()
	s, p := newServiceOf(t, 4, nil)
	done := make(chan struct{})
	var pickers sync.WaitGroup
	for _, policy := range policies() {
		picker := s.Picker(policy, discovery.PreferZone("z", 1))
		for range shortOrLong(1, 2) {
			pickers.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-done:
						return
					default:
					}
					k, err := picker.PickFor(strconv.Itoa(n))
					if !assert.NoError(t, err) {
						return
					}
					if n%7 == 0 {
						err = errors.New("bad")
					}
					k.Done(err)
					runtime.Gosched() // to whoever brings the changes
				}
			})
		}
	}
	for n := range shortOrLong(50, 2000) {
		put(t, p, fmt.Sprintf("services/s/instances/%02d", n%4), fmt.Sprintf(`{"host":"h","port":%d,"weight":%d}`, n+1, n%3))
	}
	close(done)
	pickers.Wait()
}

func policies() map[string]discovery.Policy {
	return map[string]discovery.Policy{
		"round_robin": discovery.RoundRobin(), "random": discovery.Random(), "weighted": discovery.Weighted(),
		"least_loaded": discovery.LeastLoaded(), "sticky": discovery.Sticky(),
	}
}

func TestPicker_DoesNotAllocate(t *testing.T) { //nolint:paralleltest // it counts allocations
	s, _ := newServiceOf(t, 10, func(i int) string { return fmt.Sprintf(`"weight":%d,"zone":"z"`, i) })
	for name, policy := range policies() {
		p := s.Picker(policy, discovery.PreferZone("z", 1))
		assert.Zero(t, testing.AllocsPerRun(1000, func() {
			k, err := p.PickFor("user/42")
			if err != nil {
				t.Error(err)
			}
			k.Done(nil)
		}), name)
	}
}
