package lease_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/lease"
)

// outageCase is one trial: the network fails at a moment, in a way, for a time.
type outageCase struct {
	kind    fault
	latency time.Duration // each way
	at      time.Duration // after the session was opened
	length  time.Duration // 0: for good
	drift   float64
}

func (o outageCase) String() string {
	return fmt.Sprintf("%v after %v for %v at latency %v and drift %v", o.kind, o.at, o.length, o.latency, o.drift)
}

// outages are all combinations, some 2,000.
func outages() []outageCase {
	var all []outageCase
	for _, kind := range []fault{loseRequests, loseResponses, loseBoth, refuseRequests, delayResponses} {
		for _, latency := range []time.Duration{time.Millisecond, 60 * time.Millisecond, 500 * time.Millisecond, 1500 * time.Millisecond} {
			for _, length := range []time.Duration{0, 2 * time.Second, 6 * time.Second, 9 * time.Second} {
				for _, drift := range []float64{1, 1.09} {
					for step := range 14 {
						all = append(all, outageCase{kind, latency, time.Duration(step) * 531 * time.Millisecond, length, drift})
					}
				}
			}
		}
	}
	return all
}

// TestSession_NeverOutlivesLease is the promise of the package, under every outage, on the fake
// server's clock.
func TestSession_NeverOutlivesLease(t *testing.T) {
	t.Parallel()
	all := outages()
	require.GreaterOrEqual(t, len(all), 400)
	var lost, survived int
	for i, o := range all {
		if !long() && i%5 != 0 {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			if runOutage(t, o) {
				lost++
			} else {
				survived++
			}
		})
	}
	t.Logf("%d outages: %d sessions lost in time, %d survived", lost+survived, lost, survived)
	assert.Positive(t, survived)
	assert.Positive(t, lost)
}

func runOutage(t *testing.T, o outageCase) (lost bool) {
	t.Helper()
	const ttl = 10 * time.Second
	f := newFakeEtcd()
	f.clockRate = o.drift
	m := f.manager(t)
	s, err := m.OpenSession(t.Context(), lease.WithTTL(ttl))
	require.NoError(t, err, o)
	f.setLatency(o.latency)

	var mu sync.Mutex
	var ended time.Time
	context.AfterFunc(s.Context(), func() {
		mu.Lock()
		defer mu.Unlock()
		ended = time.Now()
	})
	time.Sleep(o.at)
	f.setFault(o.kind)
	if o.length > 0 {
		time.AfterFunc(o.length, func() { f.setFault(noFault) })
	}
	time.Sleep(3 * ttl)
	synctest.Wait()
	mu.Lock()
	defer mu.Unlock()

	switch slow := o.latency > 500*time.Millisecond; {
	case ended.IsZero():
		require.NoError(t, s.Err(), o)
		require.Equal(t, lease.Alive, s.State(), o)
		require.NotZero(t, o.length, o)
		require.True(t, f.expiry(s.ID()).After(time.Now()), o)
		return false
	case o.length > 0 && o.length <= 2*time.Second && !slow && o.kind != delayResponses:
		require.Fail(t, "lost in a short outage", "%v: %v", o, s.Err())
	}
	require.ErrorIs(t, s.Err(), lease.ErrExpired, o)
	require.ErrorIs(t, context.Cause(s.Context()), lease.ErrExpired, o)
	expiry := f.expiry(s.ID())
	require.True(t, ended.Before(expiry), "%v: the session ended %v after its lease", o, ended.Sub(expiry))
	_, _, renewals, _ := f.counts()
	f.setFault(noFault)
	time.Sleep(2 * ttl)
	_, _, after, _ := f.counts()
	require.Equal(t, renewals, after, "%v: a lost session is renewed", o)
	return true
}
