package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEachLeadsAndHandsOver(t *testing.T) {
	t.Setenv("ETCD_ENDPOINTS", "")
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	assert.Equal(t, `one leads, and everybody sees it
one leads, and everybody sees it
two have handed over, the third leads: true
nobody leads any more
`, out.String())
}
