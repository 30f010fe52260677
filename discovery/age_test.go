package discovery

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// wall is a time as a watch tells it.
func wall(ago time.Duration) time.Time { return time.Now().Round(0).Add(-ago) }

func TestAClockThatIsSetBackMakesNothingYounger(t *testing.T) {
	t.Parallel()
	f := &feed{}
	whole := wall(time.Minute)
	f.wasWhole(whole)
	assert.InDelta(t, time.Minute, f.asOf.Load().ago(), float64(time.Second))

	f.wasWhole(wall(-time.Hour)) // heard of an hour later, by the clock as it is now
	assert.GreaterOrEqual(t, f.asOf.Load().ago(), time.Minute)

	// The clock that does not stand still says what is known of the same moment.
	f.asOf.Store(&moment{wall: whole, run: time.Now().Add(-time.Hour)})
	f.wasWhole(whole)
	assert.GreaterOrEqual(t, f.asOf.Load().ago(), time.Hour)

	f.wasWhole(wall(time.Second))
	assert.Less(t, f.asOf.Load().ago(), time.Minute, "what is heard afterwards counts")
}

func TestTheTimeThatAMachineHasSleptCounts(t *testing.T) {
	t.Parallel()
	f := &feed{}
	f.asOf.Store(&moment{wall: wall(time.Hour), run: time.Now()})
	assert.GreaterOrEqual(t, f.asOf.Load().ago(), time.Hour)
}
