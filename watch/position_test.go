package watch

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestPosition_IsOrderedByHistoryFirst(t *testing.T) {
	t.Parallel()
	var zero position
	rising := []position{zero, {history: 1}, {1, 1}, {1, 7}, {1, 8}, {2, 0}, {2, 3}, {3, 1}}
	for i, p := range rising {
		for j, q := range rising {
			assert.Equal(t, i >= j, p.reaches(q), "%v reaches %v", p, q)
			assert.Equal(t, rising[max(i, j)], p.advance(q), "%v advances to %v", p, q)
		}
	}
	assert.Equal(t, int64(8), position{1, 7}.nextRevision())
	assert.Equal(t, position{1, 9}, position{1, 7}.atRevision(9))
	assert.Equal(t, position{2, 3}, position{1, 7}.nextHistory(3))
	assert.True(t, position{1, 7}.nextHistory(3).reaches(position{1, 7}), "another history is later, whatever its revision")
}
