package main

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/examples/embedded"
)

// server stands for a process of its own.
type server struct {
	addr         string
	grpc         *grpc.Server
	client       *etcdkit.Client
	registration *discovery.Registration
}

func startAll(ctx context.Context, client *etcdkit.Client, names ...string) (map[string]*server, error) {
	all := map[string]*server{}
	for _, name := range names {
		s, err := start(ctx, name, client)
		if err != nil {
			return all, err
		}
		all[name] = s
	}
	return all, nil
}

func start(ctx context.Context, name string, of *etcdkit.Client) (*server, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	client, err := embedded.Another(ctx, of)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	s := &server{addr: listener.Addr().String(), grpc: grpc.NewServer(), client: client}
	healthpb.RegisterHealthServer(s.grpc, health.NewServer()) // your service
	go func() { _ = s.grpc.Serve(listener) }()

	i := discovery.Instance{Service: "orders", ID: name, Host: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port}
	// With the default TTL, a killed server is listed for 30 s.
	registry, err := discovery.New(client, discovery.WithTTL(2*time.Second))
	if err != nil {
		s.kill()
		return nil, err
	}
	s.registration, err = registry.RegisterGRPC(ctx, s.grpc, i, discovery.WithDrainDelay(300*time.Millisecond))
	if err != nil {
		s.kill()
		return nil, err
	}
	return s, nil
}

// kill closes all connections, as the end of a process does, and deregisters nothing.
func (s *server) kill() {
	s.grpc.Stop()
	_ = s.client.Raw().Close()
	_ = s.client.Close() // ends goroutines; etcd is not reachable any more
}
