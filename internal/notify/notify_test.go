package notify_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/internal/notify"
)

func TestToken_DoesNotBlock(t *testing.T) {
	t.Parallel()
	c := make(chan struct{}, 1)
	notify.Token(c)
	notify.Token(c)
	assert.Len(t, c, 1)
}

func TestBroadcast_WakesAllThatWait(t *testing.T) {
	t.Parallel()
	b := notify.NewBroadcast()
	first, second := b.Wait(), b.Wait()
	b.Notify()
	<-first
	<-second
	select {
	case <-b.Wait():
		assert.Fail(t, "Wait returned a channel of an earlier notification")
	default:
	}
}
