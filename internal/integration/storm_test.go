package integration_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// storm is work that goes on while something is broken again and again.
type storm struct {
	workers int
	rounds  int           // of work by all workers together, at least
	faults  int           // at least
	every   time.Duration // from one fault to the next, about; more where a fault takes longer
}

// run has the workers work until there were enough rounds and enough faults, and returns the number
// of each. Faults come one at a time, from the goroutine of the test.
func (s storm) run(t *testing.T, fault func(), work func(worker int)) (rounds, faults int) {
	t.Helper()
	var worked, broken atomic.Int64
	enough := func() bool {
		return t.Failed() || int(worked.Load()) >= s.rounds && int(broken.Load()) >= s.faults
	}
	var wg sync.WaitGroup
	defer wg.Wait() // also when a fault ends the test
	for w := range s.workers {
		wg.Go(func() {
			for !enough() {
				work(w)
				worked.Add(1)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		wg.Wait()
	}()
	timer := time.NewTimer(s.pause())
	defer timer.Stop()
	for {
		select {
		case <-done:
			return int(worked.Load()), int(broken.Load())
		case <-timer.C:
			began := time.Now()
			fault()
			broken.Add(1)
			timer.Reset(s.pause() - time.Since(began))
		}
	}
}

// pause is the time to the next fault. It varies by a quarter, so that no retry falls in step with
// the faults.
func (s storm) pause() time.Duration {
	return s.every*3/4 + rand.N(s.every/2)
}

// killLeader kills whoever leads, starts it again, and returns when it is back.
func killLeader(t *testing.T, c *etcdtest.Cluster) {
	t.Helper()
	leader := c.Leader(t)
	leader.Kill()
	leader.Launch()
	leader.WaitReady()
}

// freezeLeader stops whoever leads for long enough that another is elected, lets it go on, and
// returns when it is back.
func freezeLeader(t *testing.T, c *etcdtest.Cluster) {
	t.Helper()
	leader := c.Leader(t)
	leader.Pause()
	spend(t, 2500*time.Millisecond)
	leader.Resume()
	leader.WaitReady()
}
