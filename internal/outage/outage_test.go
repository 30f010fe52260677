package outage_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/internal/outage"
)

func TestLog_RecordsBeginningAndEndOnceAMinute(t *testing.T) {
	t.Parallel()
	var l outage.Log
	began, open := time.Now(), false
	for _, step := range []struct {
		at           time.Duration
		down         bool
		begins, ends bool
		lasted       time.Duration
	}{
		{at: 0},
		{at: time.Second, down: true, begins: true},
		{at: 2 * time.Second, down: true, lasted: time.Second},
		{at: 3 * time.Second, ends: true, lasted: 2 * time.Second},
		{at: 4 * time.Second},
		{at: 5 * time.Second, down: true},
		{at: 6 * time.Second, lasted: time.Second}, // too soon after the other one
		{at: 50 * time.Second, down: true},
		{at: 61 * time.Second, down: true, begins: true, lasted: 11 * time.Second},
		{at: 62 * time.Second, ends: true, lasted: 12 * time.Second},
	} {
		begins, ends, lasted := l.Update(step.down, began.Add(step.at))
		assert.Equal(t, step.begins, begins, "%v", step.at)
		assert.Equal(t, step.ends, ends, "%v", step.at)
		assert.Equal(t, step.lasted, lasted, "%v", step.at)
		open = begins || open && !ends
		assert.Equal(t, open, l.Open(), "%v", step.at)
	}
}
