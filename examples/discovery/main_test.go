package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNoCallFails(t *testing.T) {
	t.Setenv("ETCD_ENDPOINTS", "")
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	assert.Equal(t, `three servers have started: calls are answered by ada, grace, linus, and 0 have failed
ada was drained: calls are answered by grace, linus, and 0 have failed
grace was killed: calls are answered by linus, and 0 have failed
`, out.String())
}
