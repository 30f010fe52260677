package main

import (
	"io"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

// untilEOF, as the first argument after "server", ties the server's life to its standard input.
const untilEOF = "-until-eof"

// serve is the real etcd: args are etcd's own flags, and it ends the process itself.
// After [untilEOF] it also ends when standard input does, which happens when the
// process at the other end of the pipe is gone, however it went.
func serve(args []string) {
	if len(args) > 0 && args[0] == untilEOF {
		args = args[1:]
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0) // the log is crash-safe; whoever held the pipe has gone already
		}()
	}
	etcdmain.Main(append([]string{"etcd"}, args...))
}
