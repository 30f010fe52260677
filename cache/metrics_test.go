package cache_test

import (
	"testing"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
)

func TestMetrics_HaveEveryNumberOfStats(t *testing.T) {
	t.Parallel()
	scopetest.Complete(t, cache.Metrics)
}
