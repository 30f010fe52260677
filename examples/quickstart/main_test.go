package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The program checks its own steps: each one that goes wrong is an error.
func TestQuickstart_Runs(t *testing.T) {
	t.Setenv("ETCD_ENDPOINTS", "")
	require.NoError(t, run(t.Context()))
}
