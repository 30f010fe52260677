package etcdkit_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdkit/etcdkit"
)

// fleet is a few endpoints that fail on command, and the client that calls are spread over.
type fleet struct {
	mu     sync.Mutex
	in     []string // as the client has them
	sick   map[string]string
	kept   []string // whose connections were kept last
	probes map[string]int
	sets   int
	during func()          // what somebody else does right after endpoints were set
	notice func(ep string) // a call at a frozen endpoint is overdue
}

func newFleet(eps ...string) *fleet {
	return &fleet{in: eps, sick: map[string]string{}, probes: map[string]int{}, notice: func(string) {}}
}

// Endpoints is what calls are spread over.
func (f *fleet) Endpoints() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.in)
}

// SetEndpoints changes it.
func (f *fleet) SetEndpoints(eps ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.in, f.sets = eps, f.sets+1
	if during := f.during; during != nil {
		f.during = nil
		during()
	}
}

// probe fails at once where an endpoint refuses, and at the end of ctx where it is frozen.
func (f *fleet) probe(ctx context.Context, ep string) error {
	f.mu.Lock()
	how := f.sick[ep]
	f.probes[ep]++
	f.mu.Unlock()
	switch how {
	case "frozen":
		<-ctx.Done()
		return ctx.Err()
	case "refusing":
		return errors.New("connection refused")
	}
	return nil
}

func (f *fleet) keep(eps []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kept = eps
}

// is makes endpoints frozen, refusing or, with "", well.
func (f *fleet) is(how string, eps ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ep := range eps {
		f.sick[ep] = how
		if how == "frozen" {
			go f.notice(ep)
		}
	}
}

// isBroken reports whether the connection to an endpoint is lost.
func (f *fleet) isBroken(ep string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sick[ep] == "refusing"
}

func (f *fleet) asked(ep string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.probes[ep]
}

// patrolled runs f in a bubble with a patrol over the fleet.
func patrolled(t *testing.T, fl *fleet, out []string, f func(t *testing.T, p etcdkit.Patrol)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		p := etcdkit.NewPatrol(fl, fl.probe, fl.keep, out...)
		p.BrokenBy(fl.isBroken)
		fl.notice = p.Overdue
		var wg sync.WaitGroup
		wg.Go(func() { p.Run(ctx) })
		synctest.Wait()
		f(t, p)
		stop()
		wg.Wait()
	})
}

func TestAFrozenMemberIsOutWithinFiveSecondsWheneverItFreezes(t *testing.T) {
	t.Parallel()
	for after := time.Duration(0); after <= 4*time.Second; after += 250 * time.Millisecond {
		t.Run(after.String(), func(t *testing.T) {
			t.Parallel()
			fl := newFleet("a", "b", "c")
			patrolled(t, fl, nil, func(t *testing.T, p etcdkit.Patrol) {
				time.Sleep(after)
				fl.is("frozen", "b")
				time.Sleep(5 * time.Second)
				assert.Equal(t, []string{"a", "c"}, fl.Endpoints())
				out, evicted, readmitted := p.LeftOut()
				assert.Equal(t, []string{"b"}, out)
				assert.EqualValues(t, 1, evicted)
				assert.Zero(t, readmitted)
				assert.Equal(t, []string{"a", "b", "c"}, p.Endpoints(), "it stays under patrol")

				fl.is("", "b")
				before := fl.asked("b")
				for !slices.Contains(fl.Endpoints(), "b") {
					time.Sleep(100 * time.Millisecond)
				}
				assert.Equal(t, []string{"a", "b", "c"}, fl.Endpoints())
				assert.Equal(t, 3, fl.asked("b")-before, "one good answer is not enough")
			})
		})
	}
}

func TestOneFailureIsForgiven(t *testing.T) {
	t.Parallel()
	fl := newFleet("a", "b")
	patrolled(t, fl, nil, func(t *testing.T, _ etcdkit.Patrol) {
		for range 10 {
			fl.is("refusing", "b")
			before := fl.asked("b")
			for fl.asked("b") == before {
				time.Sleep(10 * time.Millisecond)
			}
			fl.is("", "b")
			time.Sleep(3 * time.Second)
		}
		assert.Zero(t, fl.sets)
	})
}

func TestTheLastOneThatAnswersStays(t *testing.T) {
	t.Parallel()
	fl := newFleet("a", "b", "c")
	patrolled(t, fl, nil, func(t *testing.T, _ etcdkit.Patrol) {
		fl.is("refusing", "a", "b")
		time.Sleep(10 * time.Second)
		assert.Equal(t, []string{"c"}, fl.Endpoints())
	})
}

func TestWhenNoneAnswersAllAreIn(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"frozen", "refusing"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			fl := newFleet("a", "b", "c")
			patrolled(t, fl, nil, func(t *testing.T, _ etcdkit.Patrol) {
				fl.is(how, "b")
				time.Sleep(5 * time.Second)
				assert.Equal(t, []string{"a", "c"}, fl.Endpoints())
				fl.is(how, "a", "c")
				time.Sleep(10 * time.Second)
				assert.Equal(t, []string{"a", "b", "c"}, fl.Endpoints())
				fl.is("", "b")
				time.Sleep(5 * time.Second)
				assert.Equal(t, []string{"b"}, fl.Endpoints(), "the one that is back carries the load")
				fl.is("", "a", "c")
				time.Sleep(10 * time.Second)
				assert.Equal(t, []string{"a", "b", "c"}, fl.Endpoints())
			})
		})
	}
}

func TestAMemberThatCameBackReplacesTheLastOneAtOnce(t *testing.T) {
	t.Parallel()
	fl := newFleet("a", "b")
	patrolled(t, fl, nil, func(t *testing.T, _ etcdkit.Patrol) {
		fl.is("refusing", "a")
		time.Sleep(5 * time.Second)
		assert.Equal(t, []string{"b"}, fl.Endpoints())
		fl.is("", "a")
		before := fl.asked("a")
		for fl.asked("a") == before {
			time.Sleep(10 * time.Millisecond)
		}
		fl.is("refusing", "b") // as in a rolling restart: the next one goes before the first has proved itself
		time.Sleep(4 * time.Second)
		assert.Equal(t, []string{"a"}, fl.Endpoints())
	})
}

func TestAnEndpointThatNeverAnsweredComesInWithItsFirstAnswer(t *testing.T) {
	t.Parallel()
	fl := newFleet("a", "b")
	fl.is("frozen", "b")
	patrolled(t, fl, []string{"b"}, func(t *testing.T, p etcdkit.Patrol) {
		assert.Equal(t, []string{"a"}, fl.Endpoints())
		time.Sleep(10 * time.Second)
		fl.is("", "b")
		time.Sleep(3 * time.Second)
		assert.Equal(t, []string{"a", "b"}, fl.Endpoints())
		_, evicted, readmitted := p.LeftOut()
		assert.EqualValues(t, 1, evicted, "what is left out from the start counts")
		assert.EqualValues(t, 1, readmitted)
	})
}

func TestOneFailureOfTheLastOneBringsNothingBadBack(t *testing.T) {
	t.Parallel()
	fl := newFleet("a", "b")
	patrolled(t, fl, nil, func(t *testing.T, _ etcdkit.Patrol) {
		fl.is("frozen", "a")
		time.Sleep(6 * time.Second)
		assert.Equal(t, []string{"b"}, fl.Endpoints())
		for range 5 {
			fl.is("refusing", "b")
			for before := fl.asked("b"); fl.asked("b") == before; {
				time.Sleep(10 * time.Millisecond)
			}
			fl.is("", "b")
			time.Sleep(5 * time.Second)
		}
		assert.Equal(t, []string{"b"}, fl.Endpoints())
		assert.Equal(t, 1, fl.sets, "the frozen one did not come in for a moment either")
	})
}

func TestEndpointsSetWhileThePatrolSetsItsOwnAreAdopted(t *testing.T) {
	t.Parallel()
	fl := newFleet("a", "b", "c")
	fl.during = func() { fl.in = []string{"x", "y"} }
	patrolled(t, fl, nil, func(t *testing.T, p etcdkit.Patrol) {
		fl.is("refusing", "b")
		for fl.asked("x") == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		assert.Equal(t, []string{"x", "y"}, fl.Endpoints())
		out, evicted, _ := p.LeftOut()
		assert.Empty(t, out)
		assert.Zero(t, evicted, "nothing of the patrol's has come into effect")
	})
}

func TestEndpointsSetByTheUserAreAdopted(t *testing.T) {
	t.Parallel()
	fl := newFleet("a", "b", "c")
	patrolled(t, fl, nil, func(t *testing.T, p etcdkit.Patrol) {
		fl.is("refusing", "b")
		time.Sleep(5 * time.Second)
		assert.Equal(t, []string{"a", "c"}, fl.Endpoints())
		fl.SetEndpoints("c", "d")
		assert.Equal(t, []string{"c", "d"}, p.Endpoints())
		time.Sleep(5 * time.Second)
		assert.Equal(t, []string{"c", "d"}, fl.Endpoints())
		assert.Equal(t, []string{"c", "d"}, fl.kept, "the other connections are closed")
		out, _, _ := p.LeftOut()
		assert.Empty(t, out)
		before := fl.asked("a")
		fl.is("frozen", "d")
		time.Sleep(5 * time.Second)
		assert.Equal(t, []string{"c"}, fl.Endpoints())
		assert.Equal(t, before, fl.asked("a"), "what the user took out is left alone")
	})
}

func TestEndpointsSetInTheMiddleOfARoundAreNotOverwritten(t *testing.T) {
	t.Parallel()
	fl := newFleet("a", "b", "c")
	patrolled(t, fl, nil, func(t *testing.T, _ etcdkit.Patrol) {
		time.Sleep(100 * time.Millisecond)
		fl.is("frozen", "b")
		time.Sleep(3500 * time.Millisecond) // b is being asked for the second time, and is about to be put out
		fl.SetEndpoints("b", "d")
		time.Sleep(500 * time.Millisecond)
		assert.Equal(t, []string{"b", "d"}, fl.Endpoints())
		time.Sleep(5 * time.Second)
		assert.Equal(t, []string{"d"}, fl.Endpoints())
	})
}

func TestPatrol_LeavesASingleEndpointAloneOnceItsVersionIsKnown(t *testing.T) {
	t.Parallel()
	fl := newFleet("a")
	fl.is("frozen", "a")
	patrolled(t, fl, nil, func(t *testing.T, _ etcdkit.Patrol) {
		time.Sleep(time.Minute)
		fl.is("", "a")
		time.Sleep(5 * time.Second)
		known := fl.asked("a")
		fl.is("frozen", "a")
		time.Sleep(time.Minute)
		assert.Equal(t, known, fl.asked("a"))
		assert.Zero(t, fl.sets)
	})
}

func TestPatrol_AsksAHealthyFleetOnceAMinute(t *testing.T) {
	t.Parallel()
	fl := newFleet("a", "b")
	patrolled(t, fl, nil, func(t *testing.T, _ etcdkit.Patrol) {
		time.Sleep(20 * time.Minute)
		assert.InDelta(t, 20, fl.asked("a"), 4)
		assert.InDelta(t, 20, fl.asked("b"), 4)
		assert.Zero(t, fl.sets)
	})
}

func TestPatrol_AsksAnEndpointAtOnceIfSomethingIsOverdue(t *testing.T) {
	t.Parallel()
	fl := newFleet("a", "b", "c")
	patrolled(t, fl, nil, func(t *testing.T, p etcdkit.Patrol) {
		time.Sleep(10 * time.Second)
		before := []int{fl.asked("a"), fl.asked("b"), fl.asked("c")}
		p.Overdue("b")
		synctest.Wait()
		assert.Equal(t, []int{before[0], before[1] + 1, before[2]}, []int{fl.asked("a"), fl.asked("b"), fl.asked("c")})
		for range 100 {
			p.Overdue("b")
		}
		time.Sleep(1900 * time.Millisecond)
		assert.Equal(t, before[1]+1, fl.asked("b"), "not twice in two seconds")
		time.Sleep(2100 * time.Millisecond)
		assert.Equal(t, before[1]+2, fl.asked("b"), "nor never")
		p.Overdue("")
		time.Sleep(2 * time.Second)
		assert.Equal(t, []int{before[0] + 1, before[1] + 3, before[2] + 1}, []int{fl.asked("a"), fl.asked("b"), fl.asked("c")})
	})
}

// A user who may not ask for the status of a member, or a proxy that does not know the request, refuses for good.
func TestPatrol_AsksAServerThatRefusesToTellItsVersionEverMoreRarely(t *testing.T) {
	t.Parallel()
	for _, eps := range [][]string{{"a"}, {"a", "b"}} {
		synctest.Test(t, func(t *testing.T) {
			fl := newFleet(eps...)
			p := etcdkit.NewPatrol(fl, fl.probe, fl.keep)
			var asked atomic.Int64
			p.VersionsBy(func(context.Context, string) (*pb.StatusResponse, error) {
				asked.Add(1)
				return nil, errors.New("permission denied")
			})
			ctx, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { p.Run(ctx) })
			time.Sleep(time.Hour)
			stop()
			wg.Wait()
			assert.InDelta(t, 20*len(eps), asked.Load(), 5*float64(len(eps)), "every 5 minutes after the first ones")
		})
	}
}

// A member whose disk hangs answers health checks, and no linearizable read.
func TestPatrol_EvictsAMemberThatAnswersNoReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fl := newFleet("a", "b", "c")
		p := etcdkit.NewPatrol(fl, fl.probe, fl.keep)
		var mu sync.Mutex
		hangs, reads := true, 0
		p.ReadBy(func(ctx context.Context, ep string) error {
			mu.Lock()
			reads++
			hung := hangs && ep == "b"
			mu.Unlock()
			if !hung {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer stop()
		wg.Go(func() { p.Run(ctx) })
		time.Sleep(10 * time.Second)
		p.Slower("b")
		time.Sleep(10 * time.Second)
		assert.Zero(t, reads, "once is nothing")
		assert.Zero(t, fl.sets)

		evicted, changed := p.Evicted("b")
		assert.False(t, evicted)
		p.Slower("b")
		began := time.Now()
		<-changed
		assert.LessOrEqual(t, time.Since(began), time.Second, "one read is enough")
		evicted, _ = p.Evicted("b")
		assert.True(t, evicted)
		assert.Equal(t, []string{"a", "c"}, fl.Endpoints())
		time.Sleep(time.Minute)
		assert.Equal(t, []string{"a", "c"}, fl.Endpoints(), "health checks do not bring it back")

		mu.Lock()
		hangs = false
		mu.Unlock()
		time.Sleep(15 * time.Second)
		assert.Equal(t, []string{"a", "b", "c"}, fl.Endpoints())
		before := reads
		time.Sleep(10 * time.Second)
		assert.Equal(t, before, reads, "and then it is checked as the others are")
	})
}

// Two calls that were slow by chance cost one read.
func TestPatrol_KeepsASlowMemberThatAnswersReads(t *testing.T) {
	t.Parallel()
	fl := newFleet("a", "b", "c")
	patrolled(t, fl, nil, func(t *testing.T, p etcdkit.Patrol) {
		time.Sleep(time.Second)
		before := fl.asked("b")
		p.Slower("b")
		p.Slower("b")
		synctest.Wait()
		assert.Equal(t, 1, fl.asked("b")-before, "at once")
		p.Slower("elsewhere")
		time.Sleep(10 * time.Second)
		assert.Zero(t, fl.sets)
	})
}
