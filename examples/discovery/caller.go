package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/etcdkit/etcdkit/discovery"
)

// caller is a client that makes calls all the time.
type caller struct {
	conn    *grpc.ClientConn
	orders  *discovery.Service
	servers map[string]*server
	out     io.Writer
	failed  int
}

// until makes calls until exactly the wanted servers are known and have answered the last hundred.
func (c *caller) until(ctx context.Context, what string, want ...string) error {
	for answered := map[string]int{}; ; {
		who, err := c.call(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			c.failed++
		case slices.Contains(want, who):
			answered[who]++
		default:
			clear(answered)
		}
		all := 0
		for _, n := range answered {
			all += n
		}
		if all >= 100 && len(answered) == len(want) && slices.Equal(c.known(), want) {
			_, _ = fmt.Fprintf(c.out, "%s: calls are answered by %s, and %d have failed\n", what, strings.Join(want, ", "), c.failed)
			return nil
		}
	}
}

// call makes one call and returns the name of the server that has answered.
func (c *caller) call(ctx context.Context) (name string, err error) {
	var from peer.Peer
	_, err = healthpb.NewHealthClient(c.conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Peer(&from))
	if err != nil {
		return "", err
	}
	for name, s := range c.servers {
		if s.addr == from.Addr.String() {
			return name, nil
		}
	}
	return "", errors.New("a stranger has answered")
}

// known returns the servers that accept calls, as etcd has them.
func (c *caller) known() (ids []string) {
	for _, i := range c.orders.Instances(discovery.OnlyUp()) {
		ids = append(ids, i.ID)
	}
	return ids
}
