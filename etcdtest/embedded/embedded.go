// Package embedded makes etcd a part of the test binary. Import it for its side effect in a test
// file, and servers of package [etcdtest] need no etcd on the PATH, no build and no cache
// directory:
//
//	import _ "github.com/etcdkit/etcdkit/etcdtest/embedded"
//
// It is a module of its own: the modules of etcd's server come into your go.mod with it. The server
// runs as a child process that executes the test binary, so all faults of [etcdtest.Server] work.
// In that child, packages are initialized up to this one; no test runs.
//
// ETCDKIT_TEST_ENDPOINTS and ETCDKIT_TEST_ETCD still come first.
//
// [etcdtest]: https://pkg.go.dev/github.com/etcdkit/etcdkit/etcdtest
// [etcdtest.Server]: https://pkg.go.dev/github.com/etcdkit/etcdkit/etcdtest#Server
package embedded

import (
	"io"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// serverArg, as the first argument, makes the test binary an etcd. etcd's flags follow.
const serverArg = "etcdtest-embedded-server"

//nolint:gochecknoinits // it is what the package is imported for
func init() {
	if len(os.Args) > 1 && os.Args[1] == serverArg {
		serve(os.Args[2:])
	}
	if self, err := os.Executable(); err == nil {
		etcdtest.UseServer(self, serverArg)
	}
}

// serve runs etcd until it ends, or until the parent process has gone and standard input ends.
func serve(flags []string) {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	etcdmain.Main(append([]string{"etcd"}, flags...))
	os.Exit(0)
}
