package discovery_test

import (
	"os"
	"testing"

	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

// isLongRun reports whether ETCDKIT_LONG asks for more and longer tests.
func isLongRun() bool { return os.Getenv("ETCDKIT_LONG") != "" }

// shortOrLong returns short, or long if ETCDKIT_LONG is set.
func shortOrLong(short, full int) int {
	if isLongRun() {
		return full
	}
	return short
}
