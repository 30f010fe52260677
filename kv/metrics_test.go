package kv_test

import (
	"testing"

	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestMetrics_HaveEveryNumberOfStats(t *testing.T) {
	t.Parallel()
	scopetest.Complete(t, kv.Metrics)
}
