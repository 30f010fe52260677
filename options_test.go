package etcdkit_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func TestRetriesAreObservedAndLogged(t *testing.T) {
	t.Parallel()
	proxy := etcdtest.Start(t).Proxy(t)
	lines := &lockedWriter{w: &strings.Builder{}}
	seen := make(chan string, 100)
	c := open(t, etcdkit.Config{Endpoints: proxy.Endpoints()}, etcdkit.WithLogger(lines.logger()), etcdkit.WithObserver(etcdkit.Observer{
		Retry: func(op string, attempt int, err error) {
			assert.Error(t, err)
			assert.Positive(t, attempt)
			seen <- op
		},
	}))
	proxy.Refuse()
	proxy.Cut()
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	_, err := c.KV().Get(ctx, "k")
	require.ErrorIs(t, err, etcdkit.ErrUnavailable)
	require.NotEmpty(t, seen)
	assert.Equal(t, "get", <-seen)
	assert.Positive(t, c.Stats().KV.Retries)
	assert.Contains(t, lines.String(), "etcd call is repeated")
}

func TestTheLastOptionWins(t *testing.T) {
	t.Parallel()
	c := opened(t, etcdkit.Config{Namespace: "a"}, etcdkit.WithNamespace("b"), etcdkit.WithNamespace("c"))
	ctx, stop := context.WithCancel(t.Context())
	stop()
	assert.Equal(t, "c/", c.Diagnose(ctx).Namespace)
	assert.Equal(t, "c/", c.Diagnose(ctx).Settings.Namespace)
}
