// Service is a service in one process, to start from: an HTTP server that is registered for others
// to find, has a setting that changes while it runs, does background work in one instance at a
// time, says whether it is ready, and stops in order.
//
//	go run ./examples/service
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/lock"
)

const (
	drainDelay  = time.Second      // for clients to stop calling
	stopTimeout = 20 * time.Second // for everything that is done at the end
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Fatalf("service: %v", err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	client, stop, err := embedded.Connect(ctx, "example-service") // yours: etcdkit.Open
	if err != nil {
		return err
	}
	defer stop()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	return serve(ctx, client, listener, out)
}

// serve runs the service until ctx ends or a part of it fails, and then stops it: first nobody
// calls it any more, then it finishes what it has begun, then it gives up what it holds.
func serve(ctx context.Context, client *etcdkit.Client, listener net.Listener, out io.Writer) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }

	source, err := config.Open(ctx, client, "config")
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer source.Close() //nolint:errcheck // it only reads
	greeting, err := config.Bind(source, "greeting", config.WithDefault("Hello"))
	if err != nil {
		return errors.Join(err, listener.Close())
	}

	mux := http.NewServeMux()
	mux.HandleFunc("GET /greet/{name}", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s, %s\n", greeting.Load(), r.PathValue("name")) //nolint:gosec // plain text
	})
	mux.Handle("GET /ready", client.ReadyHandler())
	registry, err := discovery.New(client)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			fail(err)
		}
	})
	defer server.Close() //nolint:errcheck // nothing is left to close after a shutdown

	addr := listener.Addr().(*net.TCPAddr) // what a TCP listener has
	registration, err := registry.Register(ctx, discovery.Instance{
		Service: "greeter", ID: addr.String(), Host: addr.IP.String(), Port: addr.Port,
	}, discovery.WithDrainDelay(drainDelay))
	if err != nil {
		return errors.Join(err, registry.Close())
	}
	work.Go(func() {
		if err := lead(ctx, client, addr.String(), say); err != nil {
			fail(err)
		}
	})
	say("ready on http://%s", addr)

	<-ctx.Done()
	cause := context.Cause(ctx)
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err = errors.Join(
		registration.Drain(stopCtx), // clients turn to others
		server.Shutdown(stopCtx),    // requests are answered
		registry.Close(),            // the registration is deleted
	)
	work.Wait() // the leader has resigned
	say("stopped in order: %t", err == nil)
	return errors.Join(cause, err)
}

// lead does what one instance at a time does, until ctx ends. When the leader dies, another takes
// over.
func lead(ctx context.Context, client *etcdkit.Client, name string, say func(string, ...any)) error {
	return client.Locks().Election("cleaner").Run(ctx, name, func(ctx context.Context, _ *lock.Leadership) error {
		say("leading")
		defer say("no longer leading")
		ticker := time.NewTicker(time.Minute)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				// With kv.WithGuard(l), etcd refuses writes after the leadership is lost.
				say("cleaning")
			case <-ctx.Done(): // it is lost, or the service stops
				return nil
			}
		}
	})
}
