package retry_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// fakeMembers are members "a" and "b". First attempts go to "a".
type fakeMembers struct {
	mu      sync.Mutex
	alone   bool // there is no "b"
	out     map[string]bool
	changed chan struct{}
	slower  []string
	open    int      // connections that were not released
	asked   []string // to which members others were asked for
}

func newFakeMembers() *fakeMembers {
	return &fakeMembers{out: map[string]bool{}, changed: make(chan struct{})}
}

// fakeConn is a connection to "b".
type fakeConn struct{ grpc.ClientConnInterface }

func (*fakeMembers) HasSeveral() bool { return true }

func (f *fakeMembers) Other(addr string) (grpc.ClientConnInterface, func(), bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, addr)
	if f.alone || addr != "a" {
		return nil, nil, false
	}
	f.open++
	return &fakeConn{}, func() { f.mu.Lock(); defer f.mu.Unlock(); f.open-- }, true
}

func (f *fakeMembers) Evicted(addr string) (bool, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out[addr], f.changed
}

func (f *fakeMembers) ReportSlow(addr string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slower = append(f.slower, addr)
}

func (f *fakeMembers) evict(addr string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out[addr] = true
	close(f.changed)
	f.changed = make(chan struct{})
}

// fakeAddr is the address of a member.
type fakeAddr string

func (fakeAddr) Network() string  { return "fake" }
func (a fakeAddr) String() string { return string(a) }

// response is what a member says to an attempt, and how long that takes; a negative time is for
// ever.
type response struct {
	after time.Duration
	says  string
	err   error
}

// hedged is an engine with two members, and what its attempts did.
type hedged struct {
	*retry.Engine

	members *fakeMembers
	began   time.Time

	mu       sync.Mutex
	sent     []time.Duration // when attempts were sent
	again    []bool
	ended    []time.Duration // when their contexts ended before they were responded, 0 if they were
	response func(n int, second bool) response
}

func newHedged(response func(n int, second bool) response) *hedged {
	m := newFakeMembers()
	return &hedged{
		Engine: retry.New(retry.Config{Observed: true, Members: m}), members: m, began: time.Now(), response: response,
	}
}

// send makes one attempt.
func (h *hedged) send(ctx context.Context, again bool) (string, error) {
	second := wire.Via(ctx) != nil
	member := fakeAddr("a")
	if second {
		member = "b"
	}
	wire.SentTo(ctx, member)
	wire.Sent(ctx)
	h.mu.Lock()
	n := len(h.sent)
	h.sent, h.again, h.ended = append(h.sent, time.Since(h.began)), append(h.again, again), append(h.ended, 0)
	h.mu.Unlock()
	a := h.response(n, second)
	var responded <-chan time.Time
	if a.after >= 0 {
		timer := time.NewTimer(a.after)
		defer timer.Stop()
		responded = timer.C
	}
	select {
	case <-responded:
		return a.says, a.err
	case <-ctx.Done():
		h.mu.Lock()
		h.ended[n] = time.Since(h.began)
		h.mu.Unlock()
		return "", ctx.Err()
	}
}

// reset has attempts responded anew, and forgets what was sent. What is under way must have ended.
func (h *hedged) reset(response func(n int, second bool) response) {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.response, h.sent, h.again, h.ended, h.began = response, nil, nil, nil, time.Now()
}

// byMember responds first attempts as a does, and second ones as b does.
func byMember(a, b response) func(int, bool) response {
	return func(_ int, second bool) response {
		if second {
			return b
		}
		return a
	}
}

const never = time.Duration(-1)

// Every way in which two attempts at a read can end, in every order.
func TestDo_FirstUsableResponseOfReadWins(t *testing.T) {
	t.Parallel()
	future := rpctypes.Error(rpctypes.ErrGRPCFutureRev)
	compacted := rpctypes.Error(rpctypes.ErrGRPCCompacted)
	denied := rpctypes.Error(rpctypes.ErrGRPCPermissionDenied)
	const s = time.Second // the second attempt is sent after one
	for name, test := range map[string]struct {
		a, b response
		want string
		err  error
		took time.Duration
	}{
		"the first is quick":                       {response{s / 2, "a", nil}, response{0, "b", nil}, "a", nil, s / 2},
		"the first is slow, the second quick":      {response{9 * s, "a", nil}, response{s, "b", nil}, "b", nil, 2 * s},
		"the first hangs":                          {response{after: never}, response{s, "b", nil}, "b", nil, 2 * s},
		"the first overtakes the second":           {response{3 * s, "a", nil}, response{4 * s, "b", nil}, "a", nil, 3 * s},
		"the second hangs":                         {response{3 * s, "a", nil}, response{after: never}, "a", nil, 3 * s},
		"both hang":                                {response{after: never}, response{after: never}, "", context.DeadlineExceeded, 10 * s},
		"the second has no leader":                 {response{3 * s, "a", nil}, response{0, "", errNoLeader}, "a", nil, 3 * s},
		"the second is unavailable":                {response{3 * s, "a", nil}, response{0, "", errLost}, "a", nil, 3 * s},
		"the second lags":                          {response{3 * s, "a", nil}, response{0, "", future}, "a", nil, 3 * s},
		"the first has no leader":                  {response{2 * s, "", errNoLeader}, response{3 * s, "b", nil}, "b", nil, 4 * s},
		"the first is unavailable":                 {response{2 * s, "", errLost}, response{3 * s, "b", nil}, "b", nil, 4 * s},
		"the first lags":                           {response{2 * s, "", future}, response{3 * s, "b", nil}, "b", nil, 4 * s},
		"both lag":                                 {response{2 * s, "", future}, response{3 * s, "", future}, "", errs.Invalid, 4 * s},
		"the second says compacted":                {response{after: never}, response{s, "", compacted}, "", errs.Compacted, 2 * s},
		"the second says no permission":            {response{after: never}, response{s, "", denied}, "", errs.Permission, 2 * s},
		"the first says compacted":                 {response{2 * s, "", compacted}, response{after: never}, "", errs.Compacted, 2 * s},
		"compacted outlasts no error of the other": {response{2 * s, "", errLost}, response{3 * s, "", compacted}, "", errs.Compacted, 4 * s},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHedged(byMember(test.a, test.b))
				got, err := retry.Do(within(t, 10*s), h.Engine, read, h.send)
				assert.Equal(t, test.took, time.Since(h.began))
				assert.Equal(t, test.want, got)
				require.ErrorIs(t, err, test.err)
				if test.a.err == nil && test.b.err == nil { // others are repeated
					assert.LessOrEqual(t, len(h.sent), 2)
				}
				synctest.Wait()
				assert.Zero(t, h.members.open, "the connection was given back")
				if len(h.sent) == 2 && err == nil {
					loser, responded := 0, test.a.after
					if got == "a" {
						loser, responded = 1, s+test.b.after
						if test.b.after < 0 {
							responded = never
						}
					}
					if responded < 0 || responded > test.took {
						assert.Equal(t, test.took, h.ended[loser], "the loser ends with the call")
					}
				}
			})
		})
	}
}

// An attempt that fails is repeated beside one that hangs: the new leader of a cluster refuses what
// waits at a follower, and the other attempt may be at the member that froze.
func TestDo_RetriesWhileOtherAttemptHangs(t *testing.T) {
	t.Parallel()
	const s = time.Second
	leaderChanged := rpctypes.Error(rpctypes.ErrGRPCLeaderChanged)
	for name, test := range map[string]struct {
		call   retry.Call
		first  response // of attempts at the first member, and then of those at the second
		second response
		repeat response // of every later one
		want   string
		sent   int    // 0: at least three
		avoids string // the member that the last one is not sent to
	}{
		"the second of a read fails":        {read, response{after: never}, response{s, "", leaderChanged}, response{0, "ok", nil}, "ok", 3, "a"},
		"the first of a read fails":         {read, response{2 * s, "", leaderChanged}, response{after: never}, response{0, "ok", nil}, "ok", 3, "b"},
		"the second has no leader":          {atMostOnce, response{after: never}, response{0, "", errNoLeader}, response{0, "ok", nil}, "ok", 3, "a"},
		"the first has no leader":           {atMostOnce, response{2 * s, "", errNoLeader}, response{after: never}, response{0, "ok", nil}, "ok", 3, "b"},
		"there is no leader for ever":       {atMostOnce, response{after: never}, response{0, "", errNoLeader}, response{0, "", errNoLeader}, "", 0, "a"},
		"the second of a write may come":    {atMostOnce, response{after: never}, response{s, "", errTimeout}, response{0, "ok", nil}, "ok", 3, "a"},
		"the first of a write may come":     {atMostOnce, response{2 * s, "", errTimeout}, response{after: never}, response{0, "ok", nil}, "ok", 3, "b"},
		"a repeat of a write may come":      {atMostOnce, response{after: never}, response{0, "", errNoLeader}, response{0, "", errTimeout}, "", 0, "a"},
		"and so may that of the first":      {atMostOnce, response{2 * s, "", errNoLeader}, response{after: never}, response{0, "", errTimeout}, "", 0, "b"},
		"the second of a read always fails": {read, response{after: never}, response{0, "", leaderChanged}, response{0, "", leaderChanged}, "", 4, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHedged(func(n int, _ bool) response { return []response{test.first, test.second, test.repeat}[min(n, 2)] })
				got, err := retry.Do(within(t, 20*s), h.Engine, test.call, h.send)
				if test.want != "" {
					require.NoError(t, err)
					assert.Less(t, time.Since(h.began), 5*s)
				} else {
					require.ErrorIs(t, err, context.DeadlineExceeded)
					assert.Equal(t, test.call.AtMostOnce, errors.Is(err, errs.UnknownOutcome), "the one that hangs may be applied")
				}
				assert.Equal(t, test.want, got)
				if test.sent > 0 {
					assert.Len(t, h.sent, test.sent)
				} else {
					assert.Greater(t, len(h.sent), 2)
				}
				assert.Equal(t, test.avoids, h.members.asked[len(h.members.asked)-1])
				for _, again := range h.again[1:] {
					assert.True(t, again)
				}
				synctest.Wait()
				assert.Zero(t, h.members.open, "the connections were given back")
			})
		})
	}
}

// Repeats follow when neither attempt was of use.
func TestDo_RetriesWhenBothAttemptsFail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(func(n int, _ bool) response {
			switch n {
			case 0:
				return response{2 * time.Second, "", errTimeout}
			case 1:
				return response{3 * time.Second, "", errNoLeader}
			}
			return response{0, "third", nil}
		})
		got, err := retry.Do(within(t, time.Minute), h.Engine, read, h.send)
		require.NoError(t, err)
		assert.Equal(t, "third", got)
		assert.Len(t, h.sent, 3)
		assert.EqualValues(t, 2, h.Stats().Retries)
	})
}

// The first response of an at-most-once write is "no" or "yes"; a "no" is final only when nothing
// else can come, or when it is said to be "final".
func TestDoUntil_WaitsForOtherAttempt(t *testing.T) {
	t.Parallel()
	const s = time.Second
	refused := &errs.Error{NotApplied: true, Err: errLost}
	for name, test := range map[string]struct {
		a, b   response
		want   string
		others retry.Others // of which the deciding response was told
		err    error
		took   time.Duration
		sent   int // 0: at least three
	}{
		"yes from the first":                      {response{2 * s, "yes", nil}, response{after: never}, "yes", retry.OthersInFlight, nil, 2 * s, 2},
		"yes from the second":                     {response{after: never}, response{s, "yes", nil}, "yes", retry.OthersInFlight, nil, 2 * s, 2},
		"a final no from the second":              {response{after: never}, response{s, "final", nil}, "final", retry.OthersInFlight, nil, 2 * s, 2},
		"no from the first, yes from the second":  {response{2 * s, "no", nil}, response{3 * s, "yes", nil}, "yes", retry.OthersInFlight, nil, 4 * s, 2},
		"no from the second, yes from the first":  {response{3 * s, "yes", nil}, response{s, "no", nil}, "yes", retry.OthersInFlight, nil, 3 * s, 2},
		"no and no":                               {response{3 * s, "no", nil}, response{s, "no", nil}, "no", retry.OthersNotApplied, nil, 3 * s, 2},
		"no, and the other was refused":           {response{3 * s, "no", nil}, response{s, "", refused}, "no", retry.OthersNotApplied, nil, 3 * s, 2},
		"no, and the other was refused before":    {response{2 * s, "", refused}, response{3 * s, "no", nil}, "no", retry.OthersNotApplied, nil, 4 * s, 2},
		"no before there was another":             {response{s / 2, "no", nil}, response{}, "no", retry.OthersNotApplied, nil, s / 2, 1},
		"no, and the other never responds":        {response{2 * s, "no", nil}, response{after: never}, "", 0, context.DeadlineExceeded, 10 * s, 2},
		"an error, and the other never responds":  {response{2 * s, "", errLost}, response{after: never}, "", 0, context.DeadlineExceeded, 10 * s, 0},
		"an error, then yes":                      {response{2 * s, "", errLost}, response{3 * s, "yes", nil}, "yes", retry.OthersInFlight, nil, 4 * s, 3},
		"no permission is not final for a write":  {response{4 * s, "yes", nil}, response{0, "", rpctypes.ErrPermissionDenied}, "yes", retry.OthersInFlight, nil, 4 * s, 2},
		"two refusals leave nothing to wonder at": {response{2 * s, "", rpctypes.ErrPermissionDenied}, response{2 * s, "", rpctypes.ErrPermissionDenied}, "", 0, errs.Permission, 3 * s, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHedged(byMember(test.a, test.b))
				var mu sync.Mutex
				told := map[string]retry.Others{}
				final := func(_ context.Context, says *string, others retry.Others) bool {
					mu.Lock()
					defer mu.Unlock()
					told[*says] = others
					return *says != "no" || others == retry.OthersNotApplied
				}
				got, err := retry.DoUntil(within(t, 10*s), h.Engine, atMostOnce, h.send, final)
				assert.Equal(t, test.took, time.Since(h.began))
				assert.Equal(t, test.want, got)
				require.ErrorIs(t, err, test.err)
				if test.sent == 0 {
					require.Greater(t, len(h.sent), 2)
				} else {
					require.Len(t, h.sent, test.sent)
				}
				if err == nil {
					assert.Equal(t, test.others, told[got])
				} else {
					assert.Equal(t, errors.Is(err, errs.Permission), errs.NotApplied(err))
				}
				if test.sent == 2 {
					assert.Equal(t, []bool{false, true}, h.again, "the second attempt knows that it is not the first")
				}
			})
		})
	}
}

// An attempt whose response was lost may be applied whatever becomes of those in its place.
func TestDoUntil_RemembersReplacedAttempts(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for name, test := range map[string]struct{ first, second response }{
		"the first":  {response{2 * s, "", errTimeout}, response{3 * s, "no", nil}},
		"the second": {response{4 * s, "no", nil}, response{s, "", errTimeout}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var h *hedged
				h = newHedged(func(n int, _ bool) response {
					switch {
					case n < 2:
						return []response{test.first, test.second}[n]
					case time.Since(h.began) < 6*s:
						return response{0, "", errNoLeader}
					}
					return response{0, "yes", nil}
				})
				var mu sync.Mutex
				var told []retry.Others
				got, err := retry.DoUntil(within(t, time.Minute), h.Engine, atMostOnce, h.send, func(_ context.Context, says *string, others retry.Others) bool {
					mu.Lock()
					defer mu.Unlock()
					if *says == "no" {
						told = append(told, others)
					}
					return *says != "no" || others == retry.OthersNotApplied
				})
				require.NoError(t, err)
				assert.Equal(t, "yes", got)
				assert.Equal(t, []retry.Others{retry.OthersInFlight, retry.OthersUnknown}, told)
			})
		})
	}
}

// The response of one attempt does not tell, and that of the other was lost: a third attempt does.
func TestDoUntil_RetriesWhenOtherResponseIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(func(n int, _ bool) response {
			return []response{{2 * time.Second, "no", nil}, {2 * time.Second, "", errLost}, {0, "final", nil}}[n]
		})
		got, err := retry.DoUntil(within(t, time.Minute), h.Engine, atMostOnce, h.send, func(_ context.Context, says *string, _ retry.Others) bool {
			return *says == "final"
		})
		require.NoError(t, err)
		assert.Equal(t, "final", got)
		assert.Equal(t, []bool{false, true, true}, h.again)
	})
}

func TestDoUntil_HedgesOnlyAtMostOnceWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(byMember(response{after: never}, response{0, "b", nil}))
		_, err := retry.Do(within(t, 10*time.Second), h.Engine, write, h.send)
		require.ErrorIs(t, err, errs.UnknownOutcome)
		assert.Len(t, h.sent, 1)
	})
}

func TestDo_DoesNotHedgeWithOneMember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(byMember(response{after: never}, response{0, "b", nil}))
		h.members.alone = true
		_, err := retry.Do(within(t, 10*time.Second), h.Engine, read, h.send)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Len(t, h.sent, 1)
		assert.Zero(t, h.Stats().Retries)
		synctest.Wait()
		h.members.alone = false
		for range 10 {
			_, err := retry.Do(within(t, 10*time.Second), h.Engine, read, h.send)
			require.NoError(t, err, "the budget is whole")
		}
	})
}

func TestDo_DoesNotHedgeWithMaxAttempts1(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(byMember(response{after: never}, response{0, "b", nil}))
		h.Engine = retry.New(retry.Config{Observed: true, Members: h.members, Policy: retry.Policy{MaxAttempts: 1}})
		_, err := retry.Do(within(t, 10*time.Second), h.Engine, read, h.send)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Len(t, h.sent, 1)
	})
}

// The delay is four times the mean of the responds of its kind, from 250 ms to 1 s, and a third of
// the time at most.
func TestDo_HedgeDelay(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		history  time.Duration // how long responds took; 0: there were none
		call     retry.Call
		deadline time.Duration
		want     time.Duration
	}{
		"without history":            {0, read, time.Minute, time.Second},
		"quick responds":             {ms, read, time.Minute, 250 * ms},
		"four times the mean":        {100 * ms, read, time.Minute, 400 * ms},
		"slow responds":              {240 * ms, read, time.Minute, 960 * ms},
		"very slow responds":         {900 * ms, read, time.Minute, time.Second},
		"a third of what remains":    {0, read, 900 * ms, 300 * ms},
		"and that of quick responds": {ms, read, 30 * ms, 10 * ms},
		"writes have their own mean": {100 * ms, atMostOnce, time.Minute, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHedged(byMember(response{test.history, "a", nil}, response{}))
				for range 20 {
					if test.history > 0 {
						_, err := retry.Do(within(t, time.Minute), h.Engine, read, h.send)
						require.NoError(t, err)
					}
				}
				h.reset(byMember(response{after: never}, response{0, "b", nil}))
				_, err := retry.Do(within(t, test.deadline), h.Engine, test.call, h.send)
				require.NoError(t, err)
				assert.Equal(t, []time.Duration{0, test.want}, h.sent)
			})
		})
	}
}

func TestDo_HedgeBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow := byMember(response{5 * time.Second, "a", nil}, response{6 * time.Second, "b", nil})
		h := newHedged(slow)
		call := func() (second bool) {
			h.reset(slow)
			_, err := retry.Do(within(t, time.Minute), h.Engine, read, h.send)
			require.NoError(t, err)
			return len(h.sent) == 2
		}
		seconds := 0
		const calls = 200
		for range calls {
			if call() {
				seconds++
			}
		}
		assert.InDelta(t, 10+calls/10, seconds, 2, "ten, and one for each ten responds")
	})
}

// Without a budget, what is under way at a member waits for it, until the member is evicted.
func TestDo_EvictionHedgesOutsideBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(byMember(response{after: never}, response{0, "b", nil}))
		for range 10 {
			_, err := retry.Do(within(t, time.Minute), h.Engine, read, h.send)
			require.NoError(t, err)
		}
		h.reset(byMember(response{after: never}, response{after: never}))
		for range 2 { // what the responds have earned
			_, err := retry.Do(within(t, 3*time.Second), h.Engine, read, h.send)
			require.Error(t, err)
		}
		h.reset(byMember(response{after: never}, response{0, "b", nil}))
		const calls = 50
		var wg sync.WaitGroup
		for _, call := range []retry.Call{read, atMostOnce} {
			for range calls {
				wg.Go(func() {
					got, err := retry.Do(within(t, time.Minute), h.Engine, call, h.send)
					assert.NoError(t, err)
					assert.Equal(t, "b", got)
				})
			}
		}
		var writeErr error
		wg.Go(func() { _, writeErr = retry.Do(within(t, 20*time.Second), h.Engine, write, h.send) })
		time.Sleep(5 * time.Second)
		synctest.Wait()
		assert.Len(t, h.sent, 2*calls+1, "none has a second attempt")
		h.members.evict("z")
		synctest.Wait()
		assert.Len(t, h.sent, 2*calls+1, "it was another member")
		h.members.evict("a")
		synctest.Wait()
		assert.Len(t, h.sent, 4*calls+1)
		wg.Wait()
		require.ErrorIs(t, writeErr, errs.UnknownOutcome)
		require.ErrorIs(t, writeErr, context.DeadlineExceeded, "such a write is neither repeated nor canceled")
	})
}

// A member that answers health checks but not this call is never evicted: without another look at
// the budget, the call would wait until its deadline.
func TestDo_HedgesWhenBudgetIsRefilled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(byMember(response{after: never}, response{after: never}))
		for range 10 {
			_, err := retry.Do(within(t, 3*time.Second), h.Engine, read, h.send)
			require.Error(t, err)
		}
		h.reset(byMember(response{after: never}, response{0, "b", nil}))
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			got, err := retry.Do(within(t, time.Minute), h.Engine, read, h.send)
			assert.NoError(t, err)
			assert.Equal(t, "b", got)
			assert.Less(t, time.Since(began), 12*time.Second)
		})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Len(t, h.sent, 1, "the budget is empty")
		h.reset(byMember(response{0, "a", nil}, response{0, "b", nil}))
		for range 20 { // responses refill the budget
			_, err := retry.Do(within(t, time.Second), h.Engine, read, h.send)
			require.NoError(t, err)
		}
		wg.Wait()
	})
}

func TestDo_CountsSecondAttemptForObserver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ended []scope.Result
		sc := scopetest.New(scope.Hooks{Operation: func(context.Context, scope.Operation) (context.Context, func(scope.Result)) {
			return nil, func(r scope.Result) { ended = append(ended, r) }
		}})
		h := newHedged(byMember(response{after: never}, response{0, "b", nil}))
		h.Scope = sc
		ctx, running := sc.Begin(within(t, 10*time.Second), scope.Operation{})
		_, err := retry.Do(ctx, h.Engine, read, h.send)
		require.NoError(t, err)
		running.End(nil, 0)
		assert.Len(t, h.sent, 2)
		assert.Equal(t, []scope.Result{{Attempts: 2}}, ended)
	})
}

func TestDo_ReportsSlowMember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(byMember(response{after: never}, response{0, "b", nil}))
		for range 3 {
			_, err := retry.Do(within(t, time.Minute), h.Engine, read, h.send)
			require.NoError(t, err)
		}
		h.reset(byMember(response{2 * time.Second, "a", nil}, response{3 * time.Second, "b", nil}))
		_, err := retry.Do(within(t, time.Minute), h.Engine, read, h.send)
		require.NoError(t, err)
		assert.Equal(t, []string{"a", "a", "a"}, h.members.slower)
	})
}

// The connection of a second attempt is not the client's own, and need not end with the client.
func TestDo_ClosedClientEndsHedges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(byMember(response{after: never}, response{after: never}))
		life, stop := context.WithCancel(t.Context())
		h.Engine = retry.New(retry.Config{Client: clientv3.NewCtxClient(life), Observed: true, Members: h.members})
		time.AfterFunc(2*time.Second, stop)
		_, err := retry.Do(within(t, 10*time.Second), h.Engine, read, h.send)
		require.ErrorIs(t, err, errs.Closed)
		assert.Equal(t, []time.Duration{10 * time.Second, 2 * time.Second}, h.ended, "the first ends with the connection of the client")
	})
}

// The end of the caller's context ends both attempts, and the call.
func TestDo_EndsWithContextOfCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, call := range []retry.Call{read, atMostOnce} {
			h := newHedged(byMember(response{after: never}, response{after: never}))
			ctx, stop := context.WithCancel(t.Context())
			time.AfterFunc(2*time.Second, stop)
			_, err := retry.Do(ctx, h.Engine, call, h.send)
			require.ErrorIs(t, err, context.Canceled)
			assert.Equal(t, call.AtMostOnce, errors.Is(err, errs.UnknownOutcome))
			assert.Equal(t, []time.Duration{2 * time.Second, 2 * time.Second}, h.ended)
		}
	})
}
