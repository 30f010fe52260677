package lock

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAReadOfAQueueWhoseWatchHasJustEndedIsNone(t *testing.T) {
	t.Parallel()
	q := &queue{l: &Locker{}, changed: make(chan struct{})}
	require.NoError(t, q.read(t.Context()), "it is read when it is watched again")
	assert.False(t, q.known)
}

func TestAQueueWithoutUsersIsNotWatched(t *testing.T) {
	t.Parallel()
	l := &Locker{queues: map[string]*queue{}}
	q := l.enter("m/")
	q.exit()
	q.watch() // a timer has found a user a moment ago
	assert.Nil(t, q.stop)
}

func TestNoWritersKeyIsTakenForAReaders(t *testing.T) {
	t.Parallel()
	l := &Locker{id: "1z"}
	for range 40_000 {
		e := entry{key: "m/694d-" + l.id + "." + strconv.FormatUint(l.nonces.Add(1), 36), lease: 1}
		yes, _ := noWriter([]entry{e}, entry{})
		require.False(t, yes, e.key)
	}
}
