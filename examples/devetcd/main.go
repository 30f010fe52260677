// Devetcd is an etcd for development: one command, no installation, gone on Ctrl-C.
//
//	go run github.com/etcdkit/etcdkit/examples/devetcd@latest
//	go run github.com/etcdkit/etcdkit/examples/devetcd@latest -members 3
//
// It starts one member, or as many as asked for, on free loopback ports, waits until they answer, and prints their process
// IDs and what to export:
//
//	m1  pid 4711  http://127.0.0.1:34187
//
//	export ETCD_ENDPOINTS=http://127.0.0.1:34187
//
// A member that ends is restarted on its data, so that "kill -9 4711" shows how a program rides through it.
//
// The data lies in a temporary directory that is removed at the end, unless -data names one: then ports and data are
// found again at the next start. One devetcd at a time can use a directory.
//
// It is not for production: everybody on this machine may connect, and without -data nothing is forced to the disk.
//
// # As etcd
//
// "devetcd server" followed by etcd's own flags is the etcd server itself. With -until-eof as the first of them it also
// ends when its standard input does, so that it never outlives the program that holds the other end of that pipe.
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
	// Linux ties the members' lives to the thread that starts them. The main thread lives longest.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "devetcd:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

// run starts the cluster that the arguments describe and holds it until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("devetcd", flag.ContinueOnError)
	members := flags.Int("members", 0, "number of `members` (default 1, or as many as -data holds)")
	data := flags.String("data", "", "`directory` to keep the data in, and to find it and its ports in again (default a temporary one, removed at the end)")
	ports := flags.String("ports", "", "comma-separated client `ports`, one for each member (default free ones)")
	if err := flags.Parse(args); err != nil {
		if err == flag.ErrHelp { //nolint:errorlint // what Parse returns
			return nil
		}
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: there are only flags", flags.Arg(0))
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
	ending := "stops it"
	if c.temporary {
		ending += " and removes its data"
	}
	_, err = fmt.Fprintf(out, "etcd is ready. Ctrl-C %s.\n\n%s\n  export ETCD_ENDPOINTS=%s\n\n", ending, c.table(), strings.Join(c.endpoints(), ","))
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
