package etcdtest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/etcdtest"
)

func TestRequires(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("needs a shell script")
	}
	for version, ran := range map[string]bool{"3.5.13": false, "3.6.11": false, "3.7.0-rc.1": true, "3.7.3": true, "3.10.0": true, "4.0.0": true} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			etcd := filepath.Join(t.TempDir(), "etcd")
			require.NoError(t, os.WriteFile(etcd, []byte("#!/bin/sh\necho etcd Version: "+version+"\n"), 0o700))
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRequires_Child$", "-test.v")
			cmd.Env = append(os.Environ(), "ETCDKIT_TEST_ENDPOINTS=", "ETCDKIT_TEST_ETCD="+etcd)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			if ran {
				assert.Contains(t, string(out), "the server has it")
			} else {
				assert.Contains(t, string(out), "etcd "+version+" has no RangeStream")
			}
		})
	}
}

// The child of TestRequires. By itself it shows that the server at hand has what it is asked for,
// or skips.
func TestRequires_Child(t *testing.T) {
	t.Parallel()
	etcdtest.Requires(t, etcdtest.RangeStream, etcdtest.UnixSocket)
	t.Log("the server has it")
}
