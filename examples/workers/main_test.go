package main

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/examples/internal/exampletest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
	"github.com/etcdkit/etcdkit/watch"
)

func TestMain(m *testing.M) { testmain.Run(m) }

func TestRun_FinishesAllJobs(t *testing.T) {
	assert.Equal(t, `12 jobs for 6 workers
finished: 12 left: 0
more than 3 were busy at a time: false
`, exampletest.Output(t, run))
}

func TestRun_EndsOnCtrlC(t *testing.T) {
	exampletest.Interrupt(t, run, "12 jobs")
}

func TestRun_FinishesJobsOnceWhenLocksAreLost(t *testing.T) {
	exampletest.Alone(t)
	client, stop, err := embedded.Connect(t.Context(), "")
	require.NoError(t, err)
	defer stop()
	store := client.KV()
	for n := range jobs {
		_, err := store.Put(t.Context(), fmt.Sprintf("jobs/%02d", n), nil)
		require.NoError(t, err)
	}
	p := pool{client: client, slots: client.Locks().Semaphore("busy", permits), takes: 200 * time.Millisecond}
	failed := make([]error, workers)
	var all sync.WaitGroup
	for n := range workers {
		all.Go(func() { failed[n] = p.work(t.Context()) })
	}
	// Once they are at it, the lease of all their locks and permits goes.
	session, err := client.Leases().Shared(t.Context())
	require.NoError(t, err)
	for batch, err := range client.Watcher().Watch(t.Context(), watch.Prefix("locks/busy/"), watch.WithSnapshot()) {
		require.NoError(t, err)
		if len(batch.Events) > 0 {
			break
		}
	}
	require.NoError(t, client.Leases().Revoke(t.Context(), session.ID()))

	all.Wait()
	for _, err := range failed {
		require.NoError(t, err)
	}
	assert.NotZero(t, client.Locks().Stats().Lost)
	left, err := store.Count(t.Context(), "jobs/")
	require.NoError(t, err)
	assert.Zero(t, left)
	finished := 0
	for done, err := range store.List(t.Context(), "done/") {
		require.NoError(t, err)
		assert.EqualValues(t, 1, done.Version, done.Key)
		finished++
	}
	assert.Equal(t, jobs, finished)
}
