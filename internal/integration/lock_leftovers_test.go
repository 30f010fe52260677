package integration_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// assertEmpty fails the test unless the queues below dir are empty soon. What could not be removed
// goes with its lease.
func assertEmpty(t *testing.T, cli *clientv3.Client, dir string) {
	t.Helper()
	assert.EventuallyWithT(t, func(c *assert.CollectT) {
		r, err := cli.Get(t.Context(), dir, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if assert.NoError(c, err) {
			assert.Empty(c, r.Kvs)
		}
	}, 20*time.Second, 20*time.Millisecond, "nothing is left below %s", dir)
}

// queueLen waits until n keys are below dir.
func queueLen(t *testing.T, cli *clientv3.Client, dir string, n int64) {
	t.Helper()
	require.Eventually(t, func() bool {
		r, err := cli.Get(t.Context(), dir, clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && r.Count == n
	}, 30*time.Second, 10*time.Millisecond)
}
