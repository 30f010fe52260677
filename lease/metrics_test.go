package lease_test

import (
	"testing"

	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/lease"
)

func TestMetrics_HaveEveryNumberOfStats(t *testing.T) {
	t.Parallel()
	scopetest.Complete(t, lease.Metrics)
}
