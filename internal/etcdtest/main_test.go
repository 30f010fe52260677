//go:build unix

package etcdtest_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

// roleEnv makes this test binary play a part in a test of another process of it.
const roleEnv = "ETCDTEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "print the endpoint":
		fmt.Fprintln(os.Stdout, etcdtest.Endpoints()[0])
	case "hold a server until killed":
		fmt.Fprintln(os.Stdout, etcdtest.Endpoints()[0], etcdtest.DataRoot())
		select {}
	case "leak a goroutine":
		go func() { select {} }()
	}
	testmain.Run(m)
}
