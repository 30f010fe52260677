package discovery

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func lossOf(n, left int) loss {
	l := loss{left: left}
	for i := range n {
		l.ids = append(l.ids, fmt.Sprint(left, "/", i))
	}
	return l
}

func TestLossGuard_HoldsSuddenLosses(t *testing.T) {
	t.Parallel()
	bulk := func(l loss) loss { l.bulk = true; return l }
	other := func(l loss) loss { l.otherHistory = true; return l }
	for name, tt := range map[string]struct {
		loss loss
		want bool
	}{
		"the only one":                           {lossOf(1, 0), false},
		"the only one, while the watch was away": {bulk(lossOf(1, 0)), true},
		"one of two":                             {lossOf(1, 1), false},
		"both of two":                            {lossOf(2, 0), false},
		"one of three":                           {lossOf(1, 2), false},
		"two of three":                           {lossOf(2, 1), true},
		"half":                                   {lossOf(5, 5), false},
		"more than half":                         {lossOf(6, 5), true},
		"one of many in another history":         {other(lossOf(1, 99)), true},
		"one replaced while the watch was away":  {bulk(lossOf(1, 1)), false},
	} {
		g := lossGuard{period: time.Minute}
		assert.Equal(t, tt.want, g.shouldHold(tt.loss, time.Now()), name)
	}
}

func TestLossGuard_SumsLossesOverPeriod(t *testing.T) {
	t.Parallel()
	g := lossGuard{period: time.Minute}
	now := time.Now()
	at := now.Add
	g.record(10, now)
	for left := 9; left >= 5; left-- {
		assert.False(t, g.shouldHold(lossOf(1, left), now), left)
		g.record(left, at(time.Second))
	}
	assert.True(t, g.shouldHold(lossOf(1, 4), at(2*time.Second)))
	g.record(6, at(3*time.Second))
	assert.False(t, g.shouldHold(lossOf(1, 5), at(4*time.Second)), "one has come back")
	g.record(5, at(5*time.Second))
	assert.True(t, g.shouldHold(lossOf(1, 4), at(time.Minute)), "until 59 s ago there were ten")
	assert.False(t, g.shouldHold(lossOf(1, 4), at(66*time.Second)), "that is long ago")
	g.period = 0
	assert.False(t, g.shouldHold(lossOf(100, 0), now))
}

func TestLossGuard_IgnoresReplacedAndDrained(t *testing.T) {
	t.Parallel()
	g := lossGuard{period: time.Minute}
	now := time.Now()
	g.record(10, now)
	for range 100 {
		g.record(11, now)
		assert.False(t, g.shouldHold(lossOf(1, 10), now))
		g.record(10, now)
	}
	g.forget(7)
	g.record(3, now)
	assert.False(t, g.shouldHold(lossOf(1, 3), now), "four of eleven were left")
	assert.False(t, g.shouldHold(lossOf(1, 2), now))
	assert.True(t, g.shouldHold(lossOf(1, 1), now))
}
