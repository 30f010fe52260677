//go:build unix

package etcdtest

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Main runs the tests of a package, stops the shared server, fails the run when
// goroutines were left behind, and exits. It is all that a TestMain needs to do.
func Main(m *testing.M) {
	code := m.Run()
	shared.stop()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "etcdtest: goroutines outlive the tests:", err)
			code = 1
		}
	}
	os.Exit(code)
}
