// Discovery runs three gRPC servers and a client that finds them by name. One server is drained,
// one is killed, and no call fails.
//
//	go run ./examples/discovery
package main

import (
	"context"
	"errors"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/examples/embedded"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) { // Ctrl-C is not an error
		log.Fatalf("discovery: %v", err)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	client, stop, err := embedded.Connect(ctx, "example-discovery")
	if err != nil {
		return err
	}
	defer stop()
	registry, err := discovery.New(client)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Close()) }()

	servers, err := startAll(ctx, client, "ada", "grace", "linus")
	defer func() {
		for _, s := range servers {
			s.kill()
		}
	}()
	if err != nil {
		return err
	}
	conn, err := dial(registry)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // the program ends
	orders, err := registry.OpenService(ctx, "orders")
	if err != nil {
		return err
	}
	c := &caller{conn: conn, orders: orders, servers: servers, out: out}
	if err := c.until(ctx, "three servers have started", "ada", "grace", "linus"); err != nil {
		return err
	}

	// As on SIGTERM: Close marks the instance as draining, waits, deletes it from etcd, and stops
	// the server once its calls are done.
	drained := make(chan error, 1)
	go func() { drained <- servers["ada"].registration.Close() }()
	if err := c.until(ctx, "ada was drained", "grace", "linus"); err != nil {
		return err
	}
	if err := <-drained; err != nil {
		return err
	}

	// As on SIGKILL: gRPC notices at once, and etcd when the TTL has passed.
	servers["grace"].kill()
	if err := c.until(ctx, "grace was killed", "linus"); err != nil {
		return err
	}
	return servers["linus"].registration.Close()
}

// dial finds servers by name. The resolver's default is round robin. This service config also
// repeats calls, since those in progress at a server that is killed would fail.
func dial(registry *discovery.Registry) (*grpc.ClientConn, error) {
	const config = `{"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{"name": [{}], "retryPolicy": {
		"maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`
	return grpc.NewClient("etcd:///orders", grpc.WithResolvers(registry.Resolver()), grpc.WithDefaultServiceConfig(config),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
}
