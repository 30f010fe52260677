package discovery

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// wallTime returns a time as a watch reports it.
func wallTime(ago time.Duration) time.Time { return time.Now().Round(0).Add(-ago) }

func TestAge_ClockSetBackDoesNotReduceAge(t *testing.T) {
	t.Parallel()
	d := &dirWatch{}
	whole := wallTime(time.Minute)
	d.setCompleteAt(whole)
	assert.InDelta(t, time.Minute, d.completeAt.Load().since(), float64(time.Second))

	d.setCompleteAt(wallTime(-time.Hour)) // heard of an hour later, by the clock as it is now
	assert.GreaterOrEqual(t, d.completeAt.Load().since(), time.Minute)

	// The clock that does not stand still says what is known of the same moment.
	d.completeAt.Store(&dualTime{wall: whole, mono: time.Now().Add(-time.Hour)})
	d.setCompleteAt(whole)
	assert.GreaterOrEqual(t, d.completeAt.Load().since(), time.Hour)

	d.setCompleteAt(wallTime(time.Second))
	assert.Less(t, d.completeAt.Load().since(), time.Minute, "what is heard afterwards counts")
}

func TestAge_CountsTimeOfSuspendedMachine(t *testing.T) {
	t.Parallel()
	d := &dirWatch{}
	d.completeAt.Store(&dualTime{wall: wallTime(time.Hour), mono: time.Now()})
	assert.GreaterOrEqual(t, d.completeAt.Load().since(), time.Hour)
}
