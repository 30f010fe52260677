// Package testmain runs the tests of this repository's packages.
package testmain

import (
	"fmt"
	"log"
	"log/slog"
	"os"

	"go.uber.org/goleak"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// Run runs the tests of a package, stops the shared server, fails the run if goroutines are left,
// and exits. It is all that a TestMain needs to do. It discards what goes to slog's default logger,
// since many tests are about faults. m is a *testing.M, or runs one.
func Run(m interface{ Run() int }) {
	out, flags := log.Writer(), log.Flags()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	log.SetOutput(out) // SetDefault redirects package log
	log.SetFlags(flags)
	code := m.Run()
	etcdtest.Stop()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "etcdtest: goroutines outlive the tests:", err)
			code = 1
		}
	}
	os.Exit(code)
}
