package cache_test

import (
	"os"
	"testing"

	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

// isLongRun reports whether ETCDKIT_LONG asks for more and longer tests.
func isLongRun() bool { return os.Getenv("ETCDKIT_LONG") != "" }
