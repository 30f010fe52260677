package watch_test

import (
	"testing"

	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/watch"
)

func TestMetrics_HaveEveryNumberOfStats(t *testing.T) {
	t.Parallel()
	scopetest.Complete(t, watch.Metrics)
}
