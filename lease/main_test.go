package lease_test

import (
	"os"
	"testing"

	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

// long reports whether the tests are to be as many and as long as they can be, and not just long
// enough for every day.
func long() bool { return os.Getenv("ETCDKIT_LONG") != "" }
