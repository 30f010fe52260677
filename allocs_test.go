package etcdkit_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// A call allocates at most twelve objects more than that of client/v3, with the default timeouts.
func TestClient_AllocatesLittleMoreThanClientV3(t *testing.T) { //nolint:paralleltest // allocations of other tests would count
	const calls, most = 300, 12
	s := etcdtest.Start(t)
	peer := s.Client(t)
	c, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: s.Endpoints()})
	require.NoError(t, err)
	defer c.Close()
	ctx, value := t.Context(), []byte("value")
	_, err = peer.Put(ctx, "key", "value")
	require.NoError(t, err)
	for name, calling := range map[string]struct{ peer, ours func() error }{
		"put": {
			func() error { _, err := peer.Put(ctx, "key", "value"); return err },
			func() error { _, err := c.KV().Put(ctx, "key", value); return err },
		},
		"get": {
			func() error { _, err := peer.Get(ctx, "key"); return err },
			func() error { _, err := c.KV().Get(ctx, "key"); return err },
		},
	} {
		require.NoError(t, calling.peer())
		theirs := testing.AllocsPerRun(calls, func() { err = errors.Join(err, calling.peer()) })
		ours := testing.AllocsPerRun(calls, func() { err = errors.Join(err, calling.ours()) })
		require.NoError(t, err)
		assert.LessOrEqual(t, ours-theirs, float64(most), "%s: %v allocations, and %v with client/v3", name, ours, theirs)
	}
}
