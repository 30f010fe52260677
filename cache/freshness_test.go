package cache

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/watch"
)

func TestFreshness_FollowsLastHeard(t *testing.T) {
	t.Parallel()
	const age = time.Hour
	asked := time.Now().Add(-time.Second) // and answered just now
	st := watch.Status{State: watch.StateLive, Heard: asked}
	p := &freshness{watchedDir: &watchedDir{startedAt: time.Now().Add(-age)}, status: func() watch.Status { return st }}
	p.advanceAsOf(age - 1200*time.Millisecond)
	p.update()
	assert.GreaterOrEqual(t, p.age(), time.Since(asked)-time.Millisecond)

	before := p.asOf.Load()
	p.update()
	assert.Equal(t, before, p.asOf.Load(), "an answer counts once")
	st.Heard = asked.Add(-time.Second)
	p.update()
	assert.Equal(t, before, p.asOf.Load(), "an earlier one does not count")
}

func TestFreshness_CountsSuspendedTime(t *testing.T) {
	t.Parallel()
	heard := time.Now()
	p := &freshness{watchedDir: &watchedDir{startedAt: heard}, status: func() watch.Status { return watch.Status{Heard: heard} }}
	p.update()
	p.discountSuspension(time.Second, time.Second)
	p.discountSuspension(-time.Hour, time.Second) // the wall clock was set back
	assert.Less(t, p.age(), time.Minute)
	p.discountSuspension(time.Hour, time.Second)
	assert.Greater(t, p.age(), 50*time.Minute)
	p.update()
	assert.Greater(t, p.age(), 50*time.Minute, "it has not heard of etcd since")
}
