package integration_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/lock"
)

// spectator remembers what an observer of an election was told.
type spectator struct {
	stop context.CancelFunc
	done chan struct{}

	mu   sync.Mutex
	told []lock.Leader
}

func spectate(t *testing.T, e *lock.Election) *spectator {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	s := &spectator{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for led, err := range e.Observe(ctx) {
			if err != nil {
				assert.ErrorIs(t, err, context.Canceled)
				return
			}
			s.mu.Lock()
			s.told = append(s.told, led)
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		stop()
		<-s.done
	})
	return s
}

func (s *spectator) last() lock.Leader {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.told) == 0 {
		return lock.Leader{Token: -1}
	}
	return s.told[len(s.told)-1]
}

// check fails the test unless leaders came in order, each with a value that some candidate has, and
// the last thing told is a vacancy.
func (s *spectator) check(t *testing.T, candidates map[string]bool) {
	t.Helper()
	assert.Eventually(t, func() bool { return s.last() == lock.Leader{} }, 20*time.Second, 10*time.Millisecond, "it is told that nobody leads")
	s.stop()
	<-s.done
	var top int64
	for _, led := range s.told {
		if led.Token == 0 {
			continue
		}
		assert.GreaterOrEqual(t, led.Token, top, "no earlier leader comes again")
		assert.True(t, candidates[led.Value], "%+v", led)
		top = led.Token
	}
	t.Logf("an observer was told of %d changes", len(s.told))
}
