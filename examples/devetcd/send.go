package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// send sends a command to a running devetcd and prints the reply.
func send(ctx context.Context, name string, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("devetcd "+name, flag.ContinueOnError)
	data := flags.String("data", "", "`directory` of the devetcd to control (default: the only one that runs without -data)")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	request := name + "\n"
	switch {
	case name == cmdStatus && flags.NArg() != 0:
		return fmt.Errorf("%s: unexpected argument %q", name, flags.Arg(0))
	case name != cmdStatus && flags.NArg() != 1:
		return fmt.Errorf("%s: name one member, such as m1", name)
	case name != cmdStatus:
		request = name + " " + strings.ReplaceAll(flags.Arg(0), "\n", " ") + "\n"
	}
	conn, err := dial(ctx, *data)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing depends on it
	_ = conn.SetDeadline(time.Now().Add(2 * controlTimeout))
	if _, err := io.WriteString(conn, request); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	reply, err := io.ReadAll(conn)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if text, ok := strings.CutPrefix(string(reply), "ok "); ok {
		_, err = io.WriteString(out, strings.TrimPrefix(text, "\n"))
		return err
	}
	text, _ := strings.CutPrefix(string(reply), "error ")
	if text == "" {
		text = "devetcd has ended without a reply"
	}
	return fmt.Errorf("%s: %s", name, strings.TrimSpace(text))
}

// dial connects to the devetcd in dir, or without one to the only devetcd of this user that keeps
// its data in a temporary directory.
func dial(ctx context.Context, dir string) (net.Conn, error) {
	if dir != "" {
		conn, err := dialDir(ctx, dir)
		if err != nil {
			return nil, fmt.Errorf("no devetcd runs with -data %s: %w", dir, err)
		}
		return conn, nil
	}
	sockets, err := filepath.Glob(filepath.Join(os.TempDir(), tempPattern, socketName))
	if err != nil {
		return nil, err
	}
	var found net.Conn
	var dirs []string
	for _, path := range sockets {
		if info, err := os.Lstat(filepath.Dir(path)); err != nil || !info.IsDir() || !isOwn(info) {
			continue
		}
		conn, err := dialDir(ctx, filepath.Dir(path))
		if err != nil {
			continue // it was killed and has left its socket
		}
		dirs = append(dirs, filepath.Dir(path))
		if found != nil {
			_ = found.Close()
		}
		found = conn
	}
	switch len(dirs) {
	case 0:
		return nil, errors.New("no devetcd is running; one that was started with -data needs -data here as well")
	case 1:
		return found, nil
	}
	_ = found.Close()
	return nil, fmt.Errorf("%d devetcds are running: name one with -data: %s", len(dirs), strings.Join(dirs, ", "))
}

// dialDir connects to the socket in dir.
func dialDir(ctx context.Context, dir string) (conn net.Conn, err error) {
	err = inDir(dir, func() (err error) {
		var dialer net.Dialer
		conn, err = dialer.DialContext(ctx, "unix", socketName)
		return err
	})
	return conn, err
}
