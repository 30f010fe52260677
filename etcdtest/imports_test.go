package etcdtest_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What etcdtest imports becomes a requirement of its users.
func TestPackage_ImportsNoServerAndNoAssertions(t *testing.T) {
	t.Parallel()
	list, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	require.Contains(t, string(list), "github.com/etcdkit/etcdkit/internal/etcdtest\n")
	for pkg := range strings.Lines(string(list)) {
		for _, unwanted := range []string{"github.com/stretchr/", "go.uber.org/goleak", "go.etcd.io/etcd/server/"} {
			assert.False(t, strings.HasPrefix(pkg, unwanted), pkg)
		}
	}
}
