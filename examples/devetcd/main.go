// Devetcd is an etcd for development: one command, nothing to install, gone on Ctrl-C.
//
//	go run github.com/etcdkit/etcdkit/examples/devetcd@latest
//	go run github.com/etcdkit/etcdkit/examples/devetcd@latest -members 3
//
// It starts one member, or as many as -members says, on free loopback ports, waits until they
// answer, and prints their process IDs and what to export:
//
//	m1  pid 4711  http://127.0.0.1:34187
//
//	export ETCD_ENDPOINTS=http://127.0.0.1:34187
//
// The data lies in a temporary directory that is removed at the end, unless -data names one. Then
// the next start uses the same data and ports. Only one devetcd at a time can use a directory.
//
// # Breaking it
//
// Commands from another terminal show how a program behaves when members fail:
//
//	devetcd status        # lists the members
//	devetcd pause m2      # m2 stands still: its connections stay open and it answers nothing
//	devetcd resume m2     # m2 continues
//	devetcd kill m2       # as kill -9; m2 stays down
//	devetcd restart m2    # m2 starts again, on its data
//
// A member that ends in any other way, such as by a kill -9, is restarted. The commands find the
// devetcd that runs without -data. For another one, -data must follow the command:
//
//	devetcd pause -data DIR m2
//
// They go through a socket in the data directory that only the same user can open.
//
// It is not for production: everybody on this machine can connect to the members, and without -data
// nothing is forced to the disk.
//
// # As etcd
//
// "devetcd server" followed by flags of etcd is the etcd server itself. With -until-eof as the
// first of them it also ends when its standard input does, so that it never outlives the program at
// the other end of the pipe.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "server" {
		serve(os.Args[2:])
		return
	}
	// On Linux the members end with the thread that has started them. The main thread never ends.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "devetcd:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

// run starts the cluster that the arguments describe and runs it until ctx ends, or sends a command
// to a running devetcd.
func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && slices.Contains(commands(), args[0]) {
		return send(ctx, args[0], args[1:], out)
	}
	flags := flag.NewFlagSet("devetcd", flag.ContinueOnError)
	members := flags.Int("members", 0, "number of `members` (default 1, or as many as -data holds)")
	data := flags.String("data", "", "`directory` for the data and the ports, which the next start uses again (default a temporary one)")
	ports := flags.String("ports", "", "comma-separated client `ports`, one for each member (default: free ones)")
	if err := flags.Parse(args); err != nil {
		if err == flag.ErrHelp { //nolint:errorlint // what Parse returns
			return nil
		}
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: the commands are %s", flags.Arg(0), strings.Join(commands(), ", "))
	}
	clientPorts, err := parsePorts(*ports)
	if err != nil {
		return err
	}
	c, err := open(*data, *members, clientPorts)
	if err != nil {
		return err
	}
	defer c.close()
	if err := checkFree(clientPorts); err != nil {
		return err
	}
	if err := c.start(ctx); err != nil {
		return err
	}
	if c.control, err = listenControl(ctx, c.dir); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	ending, where := "stops it", " -data "+c.dir
	if c.temporary {
		ending, where = "stops it and removes its data", ""
	}
	_, err = fmt.Fprintf(out, "etcd is ready. Ctrl-C %s.\n\n%s\n  export ETCD_ENDPOINTS=%s\n\n"+
		"Break it from another terminal: devetcd pause%s m1 (or resume, kill, restart, status).\n\n",
		ending, c.table(), strings.Join(c.endpoints(), ","), where)
	if err != nil {
		return err
	}
	return c.wait(ctx, out)
}

func parsePorts(list string) ([]int, error) {
	if list == "" {
		return nil, nil
	}
	var ports []int
	for field := range strings.SplitSeq(list, ",") {
		port, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil || port < 1 || port > 65535 {
			return nil, fmt.Errorf("-ports: %q is not a port", field)
		}
		if slices.Contains(ports, port) {
			return nil, fmt.Errorf("-ports: %d appears twice", port)
		}
		ports = append(ports, port)
	}
	return ports, nil
}
