// Package embedded lets a program run with nothing installed: unless ETCD_ENDPOINTS is set, it
// starts an etcd server inside the program.
//
//	endpoints, stop, err := embedded.Endpoints(ctx)
//	if err != nil {
//		return err
//	}
//	defer stop()
//
// It is for examples only. The server has a single member, its data is removed at the end, and it
// links the whole of etcd. A real program takes its endpoints from its configuration.
package embedded

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// Endpoints returns the comma-separated endpoints in ETCD_ENDPOINTS, or that of a server that it
// starts in this process. The server is ready when Endpoints returns. ctx bounds the start only.
// Call stop when the clients are closed: it stops the server, if there is one, and removes its
// data.
func Endpoints(ctx context.Context) (endpoints []string, stop func(), err error) {
	if list := os.Getenv("ETCD_ENDPOINTS"); list != "" {
		for endpoint := range strings.SplitSeq(list, ",") {
			endpoints = append(endpoints, strings.TrimSpace(endpoint))
		}
		return endpoints, func() {}, nil
	}
	endpoint, stop, err := start(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("embedded etcd: %w", err)
	}
	return []string{endpoint}, stop, nil
}

func start(ctx context.Context) (endpoint string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "embedded-etcd-*")
	if err != nil {
		return "", nil, err
	}
	cfg, err := quiet(dir)
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, err
	}
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, err
	}
	stop = sync.OnceFunc(func() {
		server.Close()
		_ = os.RemoveAll(dir) // a temporary directory, which the system removes some day
	})
	select {
	case <-server.Server.ReadyNotify():
		return cfg.AdvertiseClientUrls[0].String(), stop, nil
	case err = <-server.Err():
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	stop()
	return "", nil, err
}

// quiet returns the configuration of a single member on free loopback ports that logs nothing.
func quiet(dir string) (*embed.Config, error) {
	client, err := freeURL()
	if err != nil {
		return nil, err
	}
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:0"} // there are no peers
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.UnsafeNoFsync = true
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	return cfg, nil
}

func freeURL() (url.URL, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // local and immediate
	if err != nil {
		return url.URL{}, err
	}
	return url.URL{Scheme: "http", Host: l.Addr().String()}, l.Close()
}
