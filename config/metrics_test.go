package config_test

import (
	"testing"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
)

func TestMetrics_HaveEveryNumberOfStats(t *testing.T) {
	t.Parallel()
	scopetest.Complete(t, config.Metrics)
}
