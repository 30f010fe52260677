package watch

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A consumer that has read history may already have what the log repeats. What was delivered was not
// left out.
func TestCursor_DoesNotCountDeliveredChangesAsFolded(t *testing.T) {
	t.Parallel()
	log := newEventLog()
	c := cursor{limit: defaultBuffer, coalescing: true}
	log.attach(&c)
	at := position{history: 1}
	for rev := int64(4); rev <= 8; rev++ {
		log.append([]*logEntry{{pos: at.atRevision(rev), events: []Event{{Key: "k", ModRevision: rev}}}})
	}
	delivered := at.atRevision(6)
	_, coalesced, _ := c.next(delivered)
	require.NotNil(t, coalesced)
	b := coalesced.batch(delivered)
	assert.Equal(t, int64(8), b.Revision)
	assert.Len(t, b.Events, 1)
	assert.Equal(t, 1, b.Folded, "the change at revision 7 alone is left out")
	assert.True(t, c.caughtUp())
}
