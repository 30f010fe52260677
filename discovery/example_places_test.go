package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/resolver"

	"github.com/etcdkit/etcdkit/discovery"
)

// registerAll registers instances of the service "orders" at one host.
func registerAll(ctx context.Context, registry *discovery.Registry, all ...discovery.Instance) {
	for _, i := range all {
		i.Service, i.Host, i.Port = "orders", "10.0.0.7", 8080
		_, err := registry.Register(ctx, i)
		must(err)
	}
}

// A server that leaves drains first: clients turn to other instances while it still serves them.
func ExampleRegistration_Drain() {
	ctx, client, stop := connect("drain")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()
	orders, err := registry.OpenService(ctx, "orders")
	must(err)
	lists := follow(orders)
	<-lists
	i := discovery.Instance{Service: "orders", ID: "a", Host: "10.0.0.7", Port: 8080}
	reg, err := registry.Register(ctx, i, discovery.WithDrainDelay(200*time.Millisecond))
	must(err)
	<-lists

	must(reg.Drain(ctx)) // clients had 200 ms to notice
	fmt.Println(reg.State(), (<-lists)[0].Status)
	// The server finishes its calls here.
	must(reg.Close())
	fmt.Println(reg.State(), len(<-lists))
	// Output:
	// leaving draining
	// closed 0
}

// A new process replaces one that left its key behind.
func ExampleWithTakeover() {
	ctx, client, stop := connect("takeover")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()

	// A key without a lease never expires.
	_, err = client.KV().Put(ctx, "services/orders/instances/a", []byte(`{"host":"10.0.0.6","port":8080}`))
	must(err)
	i := discovery.Instance{Service: "orders", ID: "a", Host: "10.0.0.7", Port: 8080}
	_, err = registry.Register(ctx, i)
	fmt.Println(errors.Is(err, discovery.ErrTaken))

	reg, err := registry.Register(ctx, i, discovery.WithTakeover())
	must(err)
	fmt.Println(reg.State())
	// Output:
	// true
	// registered
}

// Follow calls a function with all instances at once and after each change.
func ExampleService_Follow() {
	ctx, client, stop := connect("follow")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()
	orders, err := registry.OpenService(ctx, "orders")
	must(err)
	seen := make(chan []string)
	unfollow := orders.Follow(func(list []discovery.Instance) { seen <- instanceIDs(list) })
	fmt.Println(<-seen)
	registerAll(ctx, registry, discovery.Instance{ID: "a"})
	fmt.Println(<-seen)
	unfollow()
	registerAll(ctx, registry, discovery.Instance{ID: "b"}) // not reported any more
	// Output:
	// []
	// [a]
}

// If most instances vanish at once, a view shows them for a while longer.
func ExampleWithGrace() {
	ctx, client, stop := connect("grace")
	defer stop()
	registry, err := discovery.New(client, discovery.WithGrace(500*time.Millisecond))
	must(err)
	defer registry.Close()
	for _, id := range []string{"a", "b", "c"} { // as programs in other languages write them
		_, err := client.KV().Put(ctx, "services/orders/instances/"+id, []byte(`{"host":"10.0.0.7","port":8080}`))
		must(err)
	}
	orders, err := registry.OpenService(ctx, "orders")
	must(err)
	lists := follow(orders)
	fmt.Println(instanceIDs(<-lists))
	_, _, err = client.KV().DeletePrefix(ctx, "services/orders/instances/")
	must(err)
	began := time.Now()
	fmt.Println(instanceIDs(<-lists), time.Since(began) > 400*time.Millisecond)
	// Output:
	// [a b c]
	// [] true
}

// Picks stay in a zone while it has enough instances; "us" has only one.
func ExamplePreferZone() {
	ctx, client, stop := connect("zone")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()
	registerAll(ctx, registry, discovery.Instance{ID: "a", Zone: "eu"}, discovery.Instance{ID: "b", Zone: "eu"}, discovery.Instance{ID: "c", Zone: "us"})
	orders, err := registry.OpenService(ctx, "orders")
	must(err)
	for _, zone := range []string{"eu", "us"} {
		picker, count := orders.Picker(discovery.RoundRobin(), discovery.PreferZone(zone, 2)), map[string]int{}
		for range 6 {
			pick, err := picker.Pick()
			must(err)
			count[pick.Instance.ID]++
			pick.Done(nil)
		}
		fmt.Println(zone, count)
	}
	// Output:
	// eu map[a:3 b:3]
	// us map[a:2 b:2 c:2]
}

// An instance with twice the weight gets twice the load.
func ExampleLeastLoaded() {
	ctx, client, stop := connect("load")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()
	registerAll(ctx, registry, discovery.Instance{ID: "a", Weight: 1}, discovery.Instance{ID: "b", Weight: 2})
	orders, err := registry.OpenService(ctx, "orders")
	must(err)
	picker, load := orders.Picker(discovery.LeastLoaded()), map[string]int{}
	for range 300 { // Done is called when the work has ended
		pick, err := picker.Pick()
		must(err)
		load[pick.Instance.ID]++
	}
	fmt.Println(load)
	// Output: map[a:100 b:200]
}

// A gRPC server without a service name registers each of its gRPC services.
func ExampleRegistry_RegisterGRPC() {
	ctx, client, stop := connect("server")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()
	srv, port := echoServer(ctx, "one") // a server of the service test.Echo, which listens
	_, err = registry.RegisterGRPC(ctx, srv, discovery.Instance{ID: "one", Host: "127.0.0.1", Port: port}, discovery.WithDrainDelay(0))
	must(err)
	fmt.Println(registry.Services(ctx))
	must(registry.Close()) // drains, removes the instance and stops the server gracefully
	// Output: [test.Echo] <nil>
}

// fakeBalancerConn is a resolver.ClientConn that passes the states on.
type fakeBalancerConn struct {
	fakeConn

	states chan resolver.State
}

func (c *fakeBalancerConn) UpdateState(s resolver.State) error { c.states <- s; return nil }

// A custom balancer finds the instance behind an endpoint.
func ExampleInstanceOf() {
	ctx, client, stop := connect("balancer")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()
	registerAll(ctx, registry, discovery.Instance{ID: "a", Zone: "eu"})

	conn := &fakeBalancerConn{states: make(chan resolver.State, 1)} // gRPC has its own
	target := resolver.Target{}
	target.URL.Scheme, target.URL.Path = discovery.Scheme, "/orders"
	r, err := registry.Resolver().Build(target, conn, resolver.BuildOptions{})
	must(err)
	defer r.Close()
	for _, endpoint := range (<-conn.states).Endpoints {
		if i, ok := discovery.InstanceOf(endpoint); ok {
			fmt.Println(i.ID, i.Zone)
		}
	}
	// Output: a eu
}
