package config_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

func TestFollow_SelectsByKeyOrPrefix(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "http/rate", "1")
	s := open(t, p)
	var key, prefix, everything parttest.Recorder[config.Change]
	rate := bind[int](t, s, "http/rate")
	s.Follow("http/rate", func(c config.Change) {
		n, err := strconv.Atoi(string(c.New))
		assert.NoError(t, err)
		assert.GreaterOrEqual(t, rate.Load(), n, "bound values change first")
		key.Add(c)
	})
	stop := s.Follow("http/", prefix.Add)
	s.Follow("", everything.Add)
	s.Follow("", nil)()

	two := put(t, p, "http/rate", "2")
	port := put(t, p, "http/port", "80")
	put(t, p, "http/rate", "2") // is no change
	put(t, p, "https", "on")
	gone := del(t, p, "http/port")
	three := put(t, p, "http/rate", "3")
	waitForRevision(t, s, three)
	key.Await(t, 2)
	assert.Equal(t, []config.Change{
		{Key: "http/rate", Old: []byte("1"), New: []byte("2"), Revision: two},
		{Key: "http/rate", Old: []byte("2"), New: []byte("3"), Revision: three},
	}, key.All())
	prefix.Await(t, 4)
	assert.Equal(t, []config.Change{
		{Key: "http/rate", Old: []byte("1"), New: []byte("2"), Revision: two},
		{Key: "http/port", New: []byte("80"), Revision: port},
		{Key: "http/port", Old: []byte("80"), Revision: gone},
		{Key: "http/rate", Old: []byte("2"), New: []byte("3"), Revision: three},
	}, prefix.All())
	everything.Await(t, 5)
	assert.Equal(t, 3, s.Stats().Following)
	stop()
	stop()
	assert.Equal(t, 2, s.Stats().Following)
}

func TestFollow_ContinuesAfterPanic(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	v := bind(t, s, "rate", config.WithDefault(0))
	var seen parttest.Recorder[string]
	var values parttest.Recorder[int]
	s.Follow("rate", func(c config.Change) { seen.Add(string(c.New)); panic("oh") })
	v.Follow(func(n int) { values.Add(n); panic("oh") })
	values.Await(t, 1)
	for i := range 3 {
		put(t, p, "rate", strconv.Itoa(i+1))
		seen.Await(t, i+1)
		values.Await(t, i+2)
	}
	assert.Equal(t, []string{"1", "2", "3"}, seen.All())
	assert.Equal(t, []int{0, 1, 2, 3}, values.All())
	require.Eventually(t, func() bool { return s.Stats().Panics == 7 }, parttest.Timeout, time.Millisecond)
}

func TestFollow_BlockedCallbackDelaysNobody(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	v := bind(t, s, "k0", config.WithDefault(-1))
	release := make(chan struct{})
	entered := make(chan struct{})
	var once, valueOnce sync.Once
	var late parttest.Recorder[config.Change]
	var lateValues, quick parttest.Recorder[int]
	s.Follow("", func(c config.Change) {
		once.Do(func() { close(entered); <-release })
		late.Add(c)
	})
	v.Follow(func(n int) {
		valueOnce.Do(func() { <-release })
		lateValues.Add(n)
	})
	v.Follow(quick.Add)
	quick.Await(t, 1)
	put(t, p, "k0", "0")
	<-entered
	const rounds = 400
	var rev int64
	for i := range rounds {
		rev = put(t, p, "k"+strconv.Itoa(i%4), strconv.Itoa(i+1))
	}
	gone := put(t, p, "passing", "x")
	gone = max(gone, del(t, p, "passing"))
	waitForRevision(t, s, max(rev, gone))
	assert.Equal(t, rounds-3, v.Load(), "bound values do not wait")
	require.Eventually(t, func() bool { a := quick.All(); return a[len(a)-1] == rounds-3 }, parttest.Timeout, time.Millisecond)
	close(release)

	last := func() map[string]string {
		at := map[string]string{}
		for _, c := range late.All() {
			if !assert.Equal(t, at[c.Key], string(c.Old), "Old is what it was told last") {
				return contents(s) // which ends the wait
			}
			if at[c.Key] = string(c.New); c.New == nil {
				delete(at, c.Key)
			}
		}
		return at
	}
	require.Eventually(t, func() bool { return assert.ObjectsAreEqual(contents(s), last()) }, parttest.Timeout, 10*time.Millisecond)
	require.Eventually(t, func() bool { a := lateValues.All(); return len(a) > 1 && a[len(a)-1] == rounds-3 }, parttest.Timeout, time.Millisecond)
	assert.Less(t, len(late.All()), rounds, "changes were folded")
	assert.Positive(t, s.Stats().Folded)
}

func TestFollow_StopWaitsForRunningCall(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	entered, release, left := make(chan struct{}), make(chan struct{}), false
	stop := s.Follow("a", func(config.Change) {
		close(entered)
		<-release
		left = true
	})
	put(t, p, "a", "1")
	<-entered
	go close(release)
	stop()
	assert.True(t, left)

	var once parttest.Recorder[string]
	handed := make(chan func(), 1)
	handed <- s.Follow("b", func(c config.Change) {
		once.Add(string(c.New))
		(<-handed)()
	})
	put(t, p, "b", "1")
	once.Await(t, 1)
	waitForRevision(t, s, put(t, p, "b", "2"))
	require.Eventually(t, func() bool { return s.Stats().Following == 0 }, parttest.Timeout, time.Millisecond)
	assert.Equal(t, []string{"1"}, once.All())
}

func TestSource_CloseWaitsForCallbackWithinTimeout(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s, err := config.Open(t.Context(), p, "conf")
	require.NoError(t, err)
	entered, release := make(chan struct{}), make(chan struct{})
	s.Follow("a", func(config.Change) { close(entered); <-release })
	put(t, p, "a", "1")
	<-entered
	err = s.Close()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.EqualError(t, err, `config: close "conf/": 1 functions may still run after 5s: context deadline exceeded`)
	assert.Equal(t, err, s.Close())
	close(release)
}

func TestErrorHandler_PanicOrBlockDelaysNothing(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	release := make(chan struct{})
	calls := 0
	s := open(t, p, config.WithErrorHandler(func(string, int64, error) {
		calls++
		if calls == 1 {
			panic("oh")
		}
		<-release
	}))
	defer close(release)
	v := bind(t, s, "rate", config.WithDefault(1))
	for i := range 600 {
		put(t, p, "rate", "bad"+strconv.Itoa(i))
	}
	waitForRevision(t, s, put(t, p, "rate", "2"))
	assert.Equal(t, 2, v.Load())
	assert.EqualValues(t, 600, s.Stats().BadValues)
	assert.EqualValues(t, 1, s.Stats().Panics)
	assert.Positive(t, s.Stats().Folded)
}
