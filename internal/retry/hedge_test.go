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
	"github.com/etcdkit/etcdkit/internal/retry"
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

// answer is what a member says to an attempt, and how long that takes; a negative time is for ever.
type answer struct {
	after time.Duration
	says  string
	err   error
}

// hedged is an engine with two members, and what its attempts did.
type hedged struct {
	*retry.Engine

	members *fakeMembers
	began   time.Time

	mu     sync.Mutex
	sent   []time.Duration // when attempts were sent
	again  []bool
	ended  []time.Duration // when their contexts ended before they were answered, 0 if they were
	answer func(n int, second bool) answer
}

func newHedged(answer func(n int, second bool) answer) *hedged {
	m := newFakeMembers()
	return &hedged{
		Engine: retry.New(retry.Config{Observed: true, Members: m}), members: m, began: time.Now(), answer: answer,
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
	a := h.answer(n, second)
	var answered <-chan time.Time
	if a.after >= 0 {
		timer := time.NewTimer(a.after)
		defer timer.Stop()
		answered = timer.C
	}
	select {
	case <-answered:
		return a.says, a.err
	case <-ctx.Done():
		h.mu.Lock()
		h.ended[n] = time.Since(h.began)
		h.mu.Unlock()
		return "", ctx.Err()
	}
}

// reset has attempts answered anew, and forgets what was sent. What is under way must have ended.
func (h *hedged) reset(answer func(n int, second bool) answer) {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer, h.sent, h.again, h.ended, h.began = answer, nil, nil, nil, time.Now()
}

// byMember answers first attempts as a does, and second ones as b does.
func byMember(a, b answer) func(int, bool) answer {
	return func(_ int, second bool) answer {
		if second {
			return b
		}
		return a
	}
}

const never = time.Duration(-1)

// Every way in which two attempts at a read can end, in every order.
func TestDo_FirstUsableAnswerOfARead(t *testing.T) {
	t.Parallel()
	future := rpctypes.Error(rpctypes.ErrGRPCFutureRev)
	compacted := rpctypes.Error(rpctypes.ErrGRPCCompacted)
	denied := rpctypes.Error(rpctypes.ErrGRPCPermissionDenied)
	const s = time.Second // the second attempt is sent after one
	for name, test := range map[string]struct {
		a, b answer
		want string
		err  error
		took time.Duration
	}{
		"the first is quick":                       {answer{s / 2, "a", nil}, answer{0, "b", nil}, "a", nil, s / 2},
		"the first is slow, the second quick":      {answer{9 * s, "a", nil}, answer{s, "b", nil}, "b", nil, 2 * s},
		"the first hangs":                          {answer{after: never}, answer{s, "b", nil}, "b", nil, 2 * s},
		"the first overtakes the second":           {answer{3 * s, "a", nil}, answer{4 * s, "b", nil}, "a", nil, 3 * s},
		"the second hangs":                         {answer{3 * s, "a", nil}, answer{after: never}, "a", nil, 3 * s},
		"both hang":                                {answer{after: never}, answer{after: never}, "", context.DeadlineExceeded, 10 * s},
		"the second has no leader":                 {answer{3 * s, "a", nil}, answer{0, "", errNoLeader}, "a", nil, 3 * s},
		"the second is unavailable":                {answer{3 * s, "a", nil}, answer{0, "", errLost}, "a", nil, 3 * s},
		"the second lags":                          {answer{3 * s, "a", nil}, answer{0, "", future}, "a", nil, 3 * s},
		"the first has no leader":                  {answer{2 * s, "", errNoLeader}, answer{3 * s, "b", nil}, "b", nil, 4 * s},
		"the first is unavailable":                 {answer{2 * s, "", errLost}, answer{3 * s, "b", nil}, "b", nil, 4 * s},
		"the first lags":                           {answer{2 * s, "", future}, answer{3 * s, "b", nil}, "b", nil, 4 * s},
		"both lag":                                 {answer{2 * s, "", future}, answer{3 * s, "", future}, "", errs.Invalid, 4 * s},
		"the second says compacted":                {answer{after: never}, answer{s, "", compacted}, "", errs.Compacted, 2 * s},
		"the second says no permission":            {answer{after: never}, answer{s, "", denied}, "", errs.Permission, 2 * s},
		"the first says compacted":                 {answer{2 * s, "", compacted}, answer{after: never}, "", errs.Compacted, 2 * s},
		"compacted outlasts no error of the other": {answer{2 * s, "", errLost}, answer{3 * s, "", compacted}, "", errs.Compacted, 4 * s},
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
					loser, answered := 0, test.a.after
					if got == "a" {
						loser, answered = 1, s+test.b.after
						if test.b.after < 0 {
							answered = never
						}
					}
					if answered < 0 || answered > test.took {
						assert.Equal(t, test.took, h.ended[loser], "the loser ends with the call")
					}
				}
			})
		})
	}
}

// An attempt that fails is repeated beside one that hangs: the new leader of a cluster refuses what
// waits at a follower, and the other attempt may be at the member that froze.
func TestDo_RepeatsAnAttemptBesideOneThatHangs(t *testing.T) {
	t.Parallel()
	const s = time.Second
	leaderChanged := rpctypes.Error(rpctypes.ErrGRPCLeaderChanged)
	for name, test := range map[string]struct {
		call   retry.Call
		first  answer // of attempts at the first member, and then of those at the second
		second answer
		repeat answer // of every later one
		want   string
		sent   int    // 0: at least three
		avoids string // the member that the last one is not sent to
	}{
		"the second of a read fails":        {read, answer{after: never}, answer{s, "", leaderChanged}, answer{0, "ok", nil}, "ok", 3, "a"},
		"the first of a read fails":         {read, answer{2 * s, "", leaderChanged}, answer{after: never}, answer{0, "ok", nil}, "ok", 3, "b"},
		"the second has no leader":          {guarded, answer{after: never}, answer{0, "", errNoLeader}, answer{0, "ok", nil}, "ok", 3, "a"},
		"the first has no leader":           {guarded, answer{2 * s, "", errNoLeader}, answer{after: never}, answer{0, "ok", nil}, "ok", 3, "b"},
		"there is no leader for ever":       {guarded, answer{after: never}, answer{0, "", errNoLeader}, answer{0, "", errNoLeader}, "", 0, "a"},
		"the second of a write may come":    {guarded, answer{after: never}, answer{s, "", errTimeout}, answer{0, "ok", nil}, "ok", 3, "a"},
		"the first of a write may come":     {guarded, answer{2 * s, "", errTimeout}, answer{after: never}, answer{0, "ok", nil}, "ok", 3, "b"},
		"a repeat of a write may come":      {guarded, answer{after: never}, answer{0, "", errNoLeader}, answer{0, "", errTimeout}, "", 0, "a"},
		"and so may that of the first":      {guarded, answer{2 * s, "", errNoLeader}, answer{after: never}, answer{0, "", errTimeout}, "", 0, "b"},
		"the second of a read always fails": {read, answer{after: never}, answer{0, "", leaderChanged}, answer{0, "", leaderChanged}, "", 4, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHedged(func(n int, _ bool) answer { return []answer{test.first, test.second, test.repeat}[min(n, 2)] })
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
func TestDo_RepeatsWhenBothAttemptsFail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(func(n int, _ bool) answer {
			switch n {
			case 0:
				return answer{2 * time.Second, "", errTimeout}
			case 1:
				return answer{3 * time.Second, "", errNoLeader}
			}
			return answer{0, "third", nil}
		})
		got, err := retry.Do(within(t, time.Minute), h.Engine, read, h.send)
		require.NoError(t, err)
		assert.Equal(t, "third", got)
		assert.Len(t, h.sent, 3)
		assert.EqualValues(t, 2, h.Stats().Retries)
	})
}

// The first answer of a guarded write is "no" or "yes"; a "no" is final only when nothing else can
// come, or when it is said to be "final".
func TestSettle_WaitsForTheOtherAttempt(t *testing.T) {
	t.Parallel()
	const s = time.Second
	refused := &errs.Error{NotApplied: true, Err: errLost}
	for name, test := range map[string]struct {
		a, b   answer
		want   string
		others retry.Others // of which the deciding answer was told
		err    error
		took   time.Duration
		sent   int // 0: at least three
	}{
		"yes from the first":                      {answer{2 * s, "yes", nil}, answer{after: never}, "yes", retry.OthersInFlight, nil, 2 * s, 2},
		"yes from the second":                     {answer{after: never}, answer{s, "yes", nil}, "yes", retry.OthersInFlight, nil, 2 * s, 2},
		"a final no from the second":              {answer{after: never}, answer{s, "final", nil}, "final", retry.OthersInFlight, nil, 2 * s, 2},
		"no from the first, yes from the second":  {answer{2 * s, "no", nil}, answer{3 * s, "yes", nil}, "yes", retry.OthersInFlight, nil, 4 * s, 2},
		"no from the second, yes from the first":  {answer{3 * s, "yes", nil}, answer{s, "no", nil}, "yes", retry.OthersInFlight, nil, 3 * s, 2},
		"no and no":                               {answer{3 * s, "no", nil}, answer{s, "no", nil}, "no", retry.OthersNotApplied, nil, 3 * s, 2},
		"no, and the other was refused":           {answer{3 * s, "no", nil}, answer{s, "", refused}, "no", retry.OthersNotApplied, nil, 3 * s, 2},
		"no, and the other was refused before":    {answer{2 * s, "", refused}, answer{3 * s, "no", nil}, "no", retry.OthersNotApplied, nil, 4 * s, 2},
		"no before there was another":             {answer{s / 2, "no", nil}, answer{}, "no", retry.OthersNotApplied, nil, s / 2, 1},
		"no, and the other never answers":         {answer{2 * s, "no", nil}, answer{after: never}, "", 0, context.DeadlineExceeded, 10 * s, 2},
		"an error, and the other never answers":   {answer{2 * s, "", errLost}, answer{after: never}, "", 0, context.DeadlineExceeded, 10 * s, 0},
		"an error, then yes":                      {answer{2 * s, "", errLost}, answer{3 * s, "yes", nil}, "yes", retry.OthersInFlight, nil, 4 * s, 3},
		"no permission is not final for a write":  {answer{4 * s, "yes", nil}, answer{0, "", rpctypes.ErrPermissionDenied}, "yes", retry.OthersInFlight, nil, 4 * s, 2},
		"two refusals leave nothing to wonder at": {answer{2 * s, "", rpctypes.ErrPermissionDenied}, answer{2 * s, "", rpctypes.ErrPermissionDenied}, "", 0, errs.Permission, 3 * s, 2},
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
				got, err := retry.DoUntil(within(t, 10*s), h.Engine, guarded, h.send, final)
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

// An attempt whose answer was lost may be applied whatever becomes of those in its place.
func TestSettle_RemembersAttemptsThatWereReplaced(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for name, test := range map[string]struct{ first, second answer }{
		"the first":  {answer{2 * s, "", errTimeout}, answer{3 * s, "no", nil}},
		"the second": {answer{4 * s, "no", nil}, answer{s, "", errTimeout}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var h *hedged
				h = newHedged(func(n int, _ bool) answer {
					switch {
					case n < 2:
						return []answer{test.first, test.second}[n]
					case time.Since(h.began) < 6*s:
						return answer{0, "", errNoLeader}
					}
					return answer{0, "yes", nil}
				})
				var mu sync.Mutex
				var told []retry.Others
				got, err := retry.DoUntil(within(t, time.Minute), h.Engine, guarded, h.send, func(_ context.Context, says *string, others retry.Others) bool {
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

// The answer of one attempt does not tell, and that of the other was lost: a third attempt does.
func TestSettle_SendsAgainWhenTheOtherAnswerIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(func(n int, _ bool) answer {
			return []answer{{2 * time.Second, "no", nil}, {2 * time.Second, "", errLost}, {0, "final", nil}}[n]
		})
		got, err := retry.DoUntil(within(t, time.Minute), h.Engine, guarded, h.send, func(_ context.Context, says *string, _ retry.Others) bool {
			return *says == "final"
		})
		require.NoError(t, err)
		assert.Equal(t, "final", got)
		assert.Equal(t, []bool{false, true, true}, h.again)
	})
}

func TestSettle_NeverHedgesWhatIsNotGuarded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(byMember(answer{after: never}, answer{0, "b", nil}))
		_, err := retry.Do(within(t, 10*time.Second), h.Engine, unguarded, h.send)
		require.ErrorIs(t, err, errs.UnknownOutcome)
		assert.Len(t, h.sent, 1)
	})
}

func TestDo_OneMemberHasNoSecondAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(byMember(answer{after: never}, answer{0, "b", nil}))
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

func TestDo_OneAttemptByPolicyHasNoSecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(byMember(answer{after: never}, answer{0, "b", nil}))
		h.Engine = retry.New(retry.Config{Observed: true, Members: h.members, Policy: retry.Policy{MaxAttempts: 1}})
		_, err := retry.Do(within(t, 10*time.Second), h.Engine, read, h.send)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Len(t, h.sent, 1)
	})
}

// The delay is four times the mean of the answers of its kind, from 250 ms to 1 s, and a third of
// the time at most.
func TestDo_DelayOfTheSecondAttempt(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		history  time.Duration // how long answers took; 0: there were none
		call     retry.Call
		deadline time.Duration
		want     time.Duration
	}{
		"without history":            {0, read, time.Minute, time.Second},
		"quick answers":              {ms, read, time.Minute, 250 * ms},
		"four times the mean":        {100 * ms, read, time.Minute, 400 * ms},
		"slow answers":               {240 * ms, read, time.Minute, 960 * ms},
		"very slow answers":          {900 * ms, read, time.Minute, time.Second},
		"a third of what remains":    {0, read, 900 * ms, 300 * ms},
		"and that of quick answers":  {ms, read, 30 * ms, 10 * ms},
		"writes have their own mean": {100 * ms, guarded, time.Minute, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHedged(byMember(answer{test.history, "a", nil}, answer{}))
				for range 20 {
					if test.history > 0 {
						_, err := retry.Do(within(t, time.Minute), h.Engine, read, h.send)
						require.NoError(t, err)
					}
				}
				h.reset(byMember(answer{after: never}, answer{0, "b", nil}))
				_, err := retry.Do(within(t, test.deadline), h.Engine, test.call, h.send)
				require.NoError(t, err)
				assert.Equal(t, []time.Duration{0, test.want}, h.sent)
			})
		})
	}
}

func TestDo_BudgetOfSecondAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow := byMember(answer{5 * time.Second, "a", nil}, answer{6 * time.Second, "b", nil})
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
		assert.InDelta(t, 10+calls/10, seconds, 2, "ten, and one for each ten answers")
	})
}

// Without a budget, what is under way at a member waits for it, until the member is evicted.
func TestDo_EvictionStartsSecondAttemptsOutsideTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(byMember(answer{after: never}, answer{0, "b", nil}))
		for range 10 {
			_, err := retry.Do(within(t, time.Minute), h.Engine, read, h.send)
			require.NoError(t, err)
		}
		h.reset(byMember(answer{after: never}, answer{after: never}))
		for range 2 { // what the answers have earned
			_, err := retry.Do(within(t, 3*time.Second), h.Engine, read, h.send)
			require.Error(t, err)
		}
		h.reset(byMember(answer{after: never}, answer{0, "b", nil}))
		const calls = 50
		var wg sync.WaitGroup
		for _, call := range []retry.Call{read, guarded} {
			for range calls {
				wg.Go(func() {
					got, err := retry.Do(within(t, time.Minute), h.Engine, call, h.send)
					assert.NoError(t, err)
					assert.Equal(t, "b", got)
				})
			}
		}
		var write error
		wg.Go(func() { _, write = retry.Do(within(t, 20*time.Second), h.Engine, unguarded, h.send) })
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
		require.ErrorIs(t, write, errs.UnknownOutcome)
		require.ErrorIs(t, write, context.DeadlineExceeded, "a write that is not guarded is neither repeated nor cancelled")
	})
}

func TestDo_TellsWhichMemberWasSlower(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(byMember(answer{after: never}, answer{0, "b", nil}))
		for range 3 {
			_, err := retry.Do(within(t, time.Minute), h.Engine, read, h.send)
			require.NoError(t, err)
		}
		h.reset(byMember(answer{2 * time.Second, "a", nil}, answer{3 * time.Second, "b", nil}))
		_, err := retry.Do(within(t, time.Minute), h.Engine, read, h.send)
		require.NoError(t, err)
		assert.Equal(t, []string{"a", "a", "a"}, h.members.slower)
	})
}

// The connection of a second attempt is not the client's own, and need not end with the client.
func TestDo_EndOfTheClientEndsSecondAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHedged(byMember(answer{after: never}, answer{after: never}))
		life, stop := context.WithCancel(t.Context())
		h.Engine = retry.New(retry.Config{Client: clientv3.NewCtxClient(life), Observed: true, Members: h.members})
		time.AfterFunc(2*time.Second, stop)
		_, err := retry.Do(within(t, 10*time.Second), h.Engine, read, h.send)
		require.ErrorIs(t, err, errs.Closed)
		assert.Equal(t, []time.Duration{10 * time.Second, 2 * time.Second}, h.ended, "the first ends with the connection of the client")
	})
}

// The end of the caller's context ends both attempts, and the call.
func TestDo_EndsWithTheCallersContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, call := range []retry.Call{read, guarded} {
			h := newHedged(byMember(answer{after: never}, answer{after: never}))
			ctx, stop := context.WithCancel(t.Context())
			time.AfterFunc(2*time.Second, stop)
			_, err := retry.Do(ctx, h.Engine, call, h.send)
			require.ErrorIs(t, err, context.Canceled)
			assert.Equal(t, call.AtMostOnce, errors.Is(err, errs.UnknownOutcome))
			assert.Equal(t, []time.Duration{2 * time.Second, 2 * time.Second}, h.ended)
		}
	})
}
