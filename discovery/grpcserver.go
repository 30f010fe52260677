package discovery

import (
	"context"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// RegisterGRPC registers the services of a gRPC server and takes charge of stopping it. Call it
// when srv is listening and its services are registered with srv. If i has a Service, clients dial
// that name. Otherwise each service of srv is registered under its full name, such as
// "helloworld.Greeter", all as one [Registration], except those whose names begin with "grpc.",
// such as health checking and reflection.
//
// Close of the registration marks the instance as draining, waits for [WithDrainDelay], so that
// clients can turn to other instances, deletes the key, and stops srv gracefully. Calls that take
// longer than [WithStopTimeout] are cut off: their contexts end, and Close returns when their
// handlers have returned. A service whose key another process has taken over is not drained and
// does not delay the others. Otherwise RegisterGRPC is like [Registry.Register]. After an error,
// srv remains the caller's.
func (r *Registry) RegisterGRPC(ctx context.Context, srv *grpc.Server, i Instance, o ...RegisterOption) (*Registration, error) {
	const op = "register grpc"
	if srv == nil {
		return nil, opError(op, i.Service+"/"+i.ID, errs.Invalidf("no server"))
	}
	all := []Instance{i}
	if i.Service == "" {
		all = all[:0]
		for _, name := range slices.Sorted(maps.Keys(srv.GetServiceInfo())) {
			if !strings.HasPrefix(name, "grpc.") {
				i.Service = name
				all = append(all, i)
			}
		}
	}
	if len(all) == 0 {
		return nil, opError(op, i.ID, errs.Invalidf("the server has no services"))
	}
	return r.register(ctx, op, srv, all, o)
}
