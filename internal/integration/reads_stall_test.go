//nolint:paralleltest // each test has a server, and the machine, to itself
package integration_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// etcd does not answer for 3 s; every read has 5 s.
func TestReads_SurviveAStallWithinTheirDeadline(t *testing.T) {
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	c := open(t, proxy.Endpoints())
	proxy.Hold(false, true)
	began := time.Now()
	var wg sync.WaitGroup
	var failed atomic.Int64
	var took atomic.Int64
	for range 100 {
		wg.Go(func() {
			if _, err := c.KV().Exists(t.Context(), "k"); err != nil {
				failed.Add(1)
				took.Store(int64(time.Since(began)))
				t.Log(err)
			}
		})
	}
	spend(t, 3*time.Second)
	proxy.Heal()
	wg.Wait()
	assert.Zero(t, failed.Load(), "failed after %v", time.Duration(took.Load()))
}
