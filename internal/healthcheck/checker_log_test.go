package healthcheck_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/healthcheck"
)

func TestChecker_LogsBeginningAndEndOfOutage(t *testing.T) {
	t.Parallel()
	log := &etcdtest.Log{}
	cluster := newFakeCluster("a", "b")
	cluster.logger = log.Logger()
	cluster.run(t, nil, func(t *testing.T, _ *healthcheck.Checker) {
		count := func(text string) int { return log.Count("level=WARN msg=\"" + text) }
		cluster.set(refusing, "b")
		time.Sleep(30 * time.Second)
		assert.Equal(t, 1, count("etcd endpoint evicted\" endpoint=b error=\"connection refused\""))
		cluster.set(refusing, "a")
		time.Sleep(30 * time.Second)
		assert.Equal(t, 1, count("no etcd endpoint answers\" error=\"a: connection refused; b: connection refused\""))
		cluster.set(healthy, "a", "b")
		time.Sleep(30 * time.Second)
		assert.Equal(t, 1, count("etcd endpoint readmitted\" endpoint=b"))
		assert.Equal(t, 1, count("etcd endpoints answer again"))
		assert.Equal(t, 4, log.Count("\n"), log.String())
	})
}

func TestChecker_LogsFlappingEndpointOnceAMinute(t *testing.T) {
	t.Parallel()
	log := &etcdtest.Log{}
	cluster := newFakeCluster("a", "b")
	cluster.logger = log.Logger()
	cluster.run(t, nil, func(t *testing.T, c *healthcheck.Checker) {
		const minutes = 5
		for range minutes * 2 {
			cluster.set(refusing, "b")
			time.Sleep(15 * time.Second)
			cluster.set(healthy, "b")
			time.Sleep(15 * time.Second)
		}
		_, evicted, _ := c.Evicted()
		assert.EqualValues(t, minutes*2, evicted)
		got := log.Count("etcd endpoint evicted")
		assert.GreaterOrEqual(t, got, minutes-1)
		assert.LessOrEqual(t, got, minutes+1)
		assert.Equal(t, got, log.Count("etcd endpoint readmitted"))
	})
}

func TestChecker_LogsCausesWithoutGRPCPrefixes(t *testing.T) {
	t.Parallel()
	log := &etcdtest.Log{}
	cluster := newFakeCluster("a", "b", "c")
	cluster.logger = log.Logger()
	cluster.read = func(context.Context, string) error {
		return status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp 10.0.0.1:2379: connect: connection refused"`)
	}
	cluster.run(t, nil, func(t *testing.T, c *healthcheck.Checker) {
		cluster.set(frozen, "b")
		c.ReportSlow("c")
		c.ReportSlow("c")
		time.Sleep(30 * time.Second)
		assert.Contains(t, log.String(), `endpoint=b error="no answer"`)
		assert.Contains(t, log.String(), `endpoint=c error="dial tcp 10.0.0.1:2379: connect: connection refused"`)
	})
}
