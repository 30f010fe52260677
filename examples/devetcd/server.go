package main

import (
	"io"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

// untilEOF, as the first argument after "server", makes the server end with its standard input.
const untilEOF = "-until-eof"

// serve runs etcd with flags of its own and does not return. After [untilEOF] it also ends when
// standard input does, which happens when the process at the other end of the pipe ends.
func serve(args []string) {
	if len(args) > 0 && args[0] == untilEOF {
		args = args[1:]
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0) // as in a crash, which etcd survives
		}()
	}
	etcdmain.Main(append([]string{"etcd"}, args...))
}
