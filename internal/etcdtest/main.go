//go:build unix

package etcdtest

import (
	"fmt"
	"log"
	"log/slog"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Main runs the tests of a package, stops the shared server, fails the run when
// goroutines were left behind, and exits. It is all that a TestMain needs to do.
// It discards what goes to slog's default logger, since faults are what many tests are about.
func Main(m *testing.M) {
	out, flags := log.Writer(), log.Flags()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	log.SetOutput(out) // SetDefault redirects package log
	log.SetFlags(flags)
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
