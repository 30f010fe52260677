package etcdtest_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The module that is built when there is no etcd has the requirements of examples/devetcd, which is
// kept tidy.
func TestEtcdSource_RequiresWhatDevetcdDoes(t *testing.T) {
	t.Parallel()
	devetcd := filepath.Join("..", "..", "examples", "devetcd")
	modulePath := regexp.MustCompile(`(?m)^module .*$`)
	for _, name := range []string{"go.mod", "go.sum"} {
		want, err := os.ReadFile(filepath.Join(devetcd, name))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join("etcd", name+".txt"))
		require.NoError(t, err)
		assert.Equal(t, modulePath.ReplaceAllString(string(want), ""), modulePath.ReplaceAllString(string(got), ""), name)
	}
}
