package cache

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/watch"
)

func TestWhatTheHandlerTookItsTimeForIsNoYoungerThanItsAnswer(t *testing.T) {
	t.Parallel()
	const age = time.Hour
	answered := time.Now().Add(-time.Second) // and handled just now
	st := watch.Status{State: watch.StateLive, Heard: answered}
	p := &pulse{feed: &feed{born: time.Now().Add(-age)}, status: func() watch.Status { return st }}
	p.move(age - 1200*time.Millisecond)
	p.look()
	assert.GreaterOrEqual(t, p.age(), time.Since(answered)-time.Millisecond)

	before := p.asOf.Load()
	p.look()
	assert.Equal(t, before, p.asOf.Load(), "an answer counts once")
	st.Heard = time.Now().Add(age) // before the clock was set back
	p.look()
	assert.GreaterOrEqual(t, p.age(), time.Duration(0))
}
