package embedded_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/etcdtest"
	_ "github.com/etcdkit/etcdkit/etcdtest/embedded"
	harness "github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) {
	_ = os.Unsetenv("ETCDKIT_TEST_ENDPOINTS") // these tests are about the embedded server
	_ = os.Unsetenv("ETCDKIT_TEST_ETCD")
	testmain.Run(m)
}

func TestServer_IsTheTestBinary(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	server, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", harness.Start(t).PID()))
	require.NoError(t, err)
	assert.Equal(t, self, server)
}

func TestServer_HasAllFaults(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	client := server.Open(t)
	_, err := client.KV().Put(t.Context(), "k", []byte("v"))
	require.NoError(t, err)

	server.Pause()
	server.Resume()
	server.Kill()
	server.Restart()
	e, err := client.KV().Get(t.Context(), "k")
	require.NoError(t, err)
	assert.Equal(t, "v", string(e.Value))
	server.Wipe()
}

func TestServer_VersionIsKnown(t *testing.T) {
	t.Parallel()
	etcdtest.Requires(t, etcdtest.RangeStream)
	assert.Regexp(t, `^3\.\d+\.\d+$`, etcdtest.Start(t).Version())
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		etcdtest.Start(b).Kill()
	}
}
