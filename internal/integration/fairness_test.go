//nolint:paralleltest // each test has a cluster, and the machine, to itself
package integration_test

import (
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// No faults at all: four clients with four workers each on one key.
func TestUpdate_IsFairBetweenClients(t *testing.T) {
	srv := etcdtest.Start(t)
	var stores [4]*kv.Store
	for i := range stores {
		stores[i] = open(t, srv.Endpoints()).KV()
	}
	add := [4]adder{}
	for i := range add {
		add[i] = addWithUpdate(stores[i], "suite/", nothing)
	}
	var slowest atomic.Int64
	var per [4]atomic.Int64
	began := time.Now()
	s := storm{workers: 16, rounds: scale(2_000, 10_000), every: time.Hour}
	rounds, _ := s.run(t, func() {}, func(w int) {
		at := time.Now()
		_, _, err := add[w%4](t.Context(), strconv.Itoa(w))
		assert.NoError(t, err)
		per[w%4].Add(1)
		raise(&slowest, int64(time.Since(at)))
	})
	t.Logf("%d in %v; per client %d %d %d %d; slowest %v; %+v", rounds, time.Since(began), per[0].Load(), per[1].Load(), per[2].Load(), per[3].Load(), time.Duration(slowest.Load()), sum(stores[:]))
	for i := range per {
		assert.Greater(t, per[i].Load(), int64(rounds/40), "a tenth of a fair share, client %d", i)
	}
}
