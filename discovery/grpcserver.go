package discovery

import (
	"context"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc"
)

// RegisterGRPC registers the services of a gRPC server, and takes over its end. Register them with srv before, and call it
// when srv listens. If i has a Service, that is the name that clients dial; if it has none, each service of srv is registered
// under its full name, such as "helloworld.Greeter", all as one [Registration]; health checking and reflection, whose names
// begin with "grpc.", are left out.
//
// Close of the registration marks the instance as draining, waits for [WithDrainDelay], so that clients have turned
// elsewhere, deletes it from etcd, and then stops srv gracefully; calls that take longer than [WithStopWait] are cut off:
// their contexts end, and Close returns when their handlers have. A service that somebody else has taken over is left out of
// that, and does not keep the others from it. The rest is as for [Registry.Register]: on error, srv is left alone.
func (r *Registry) RegisterGRPC(ctx context.Context, srv *grpc.Server, i Instance, o ...RegisterOption) (*Registration, error) {
	const op = "register grpc"
	if srv == nil {
		return nil, opError(op, i.Service+"/"+i.ID, invalid("no server"))
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
		return nil, opError(op, i.ID, invalid("the server has no services"))
	}
	return r.register(ctx, op, srv, all, o)
}
