package discovery

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// wall is a time as a watch tells it.
func wallTime(ago time.Duration) time.Time { return time.Now().Round(0).Add(-ago) }

func TestAge_ClockSetBackDoesNotReduceAge(t *testing.T) {
	t.Parallel()
	f := &retryingWatch{}
	whole := wallTime(time.Minute)
	f.setCompleteAt(whole)
	assert.InDelta(t, time.Minute, f.completeAt.Load().since(), float64(time.Second))

	f.setCompleteAt(wallTime(-time.Hour)) // heard of an hour later, by the clock as it is now
	assert.GreaterOrEqual(t, f.completeAt.Load().since(), time.Minute)

	// The clock that does not stand still says what is known of the same moment.
	f.completeAt.Store(&dualTime{wall: whole, mono: time.Now().Add(-time.Hour)})
	f.setCompleteAt(whole)
	assert.GreaterOrEqual(t, f.completeAt.Load().since(), time.Hour)

	f.setCompleteAt(wallTime(time.Second))
	assert.Less(t, f.completeAt.Load().since(), time.Minute, "what is heard afterwards counts")
}

func TestAge_CountsTimeOfSuspendedMachine(t *testing.T) {
	t.Parallel()
	f := &retryingWatch{}
	f.completeAt.Store(&dualTime{wall: wallTime(time.Hour), mono: time.Now()})
	assert.GreaterOrEqual(t, f.completeAt.Load().since(), time.Hour)
}
