package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheCacheReadsAndSaysHowFresh(t *testing.T) {
	t.Setenv("ETCD_ENDPOINTS", "")
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	assert.Equal(t, `hello Ada: 1,001 reads, of which 1 went to etcd
what is absent is remembered too: true
as new as that write: Ada Lovelace
linearizable: Ada Lovelace
in the replica: users/42 is Ada Lovelace
`, out.String())
}
