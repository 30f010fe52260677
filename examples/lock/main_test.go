package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAWriteOfAnExHolderIsRefused(t *testing.T) {
	t.Setenv("ETCD_ENDPOINTS", "")
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	assert.Equal(t, `while it is held, another one is told: true
the holder has written, and released
a second holder begins, and stands still
a third has the lock: its token is higher: true
the second wakes up and writes: refused true, because it has lost the lock: true
the report is from the third
`, out.String())
}
