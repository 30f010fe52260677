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
	if os.Getenv(roleEnv) == "hold a server" {
		fmt.Fprintln(os.Stdout, etcdtest.Endpoints()[0])
		select {}
	}
	testmain.Run(m)
}
