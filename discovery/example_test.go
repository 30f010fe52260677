package discovery_test

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/etcdkit/etcdkit/discovery"
)

// An instance is registered, found by another process, drained and removed.
func Example() {
	ctx, client, stop := connect("first")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()

	orders, err := registry.OpenService(ctx, "orders")
	must(err)
	lists := follow(orders)
	fmt.Println(len(<-lists), "at first")

	reg, err := registry.Register(ctx, discovery.Instance{Service: "orders", ID: "orders-0", Host: "10.0.0.7", Port: 8080})
	must(err)
	for _, i := range <-lists {
		fmt.Println(i.ID, i.Addr(), i.Status, reg.State())
	}
	must(reg.Drain(ctx)) // waits two seconds, so that clients turn to other instances
	fmt.Println((<-lists)[0].Status, reg.State())
	must(reg.Close())
	fmt.Println(len(<-lists), "at the end", reg.State())
	// Output:
	// 0 at first
	// orders-0 10.0.0.7:8080 up registered
	// draining leaving
	// 0 at the end closed
}

// Update changes the metadata of an instance, which stays registered.
func ExampleRegistration_Update() {
	ctx, client, stop := connect("update")
	defer stop()
	registry, err := discovery.New(client, discovery.WithTTL(10*time.Second))
	must(err)
	defer registry.Close()

	i := discovery.Instance{Service: "orders", ID: "a", Host: "10.0.0.7", Port: 8080, Version: "1.0"}
	reg, err := registry.Register(ctx, i)
	must(err)
	i.Metadata = map[string]string{"shard": "7"}
	must(reg.Update(ctx, i))

	e, err := client.KV().Get(ctx, "services/orders/instances/a")
	must(err)
	fmt.Println(e.Version, "versions", reg.Instance().Metadata, e.Lease != 0)
	// Output: 2 versions map[shard:7] true
}

// An ID belongs to one registration at a time.
func ExampleTakenError() {
	ctx, client, stop := connect("taken")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()

	i := discovery.Instance{Service: "orders", ID: "a", Host: "10.0.0.7", Port: 8080}
	_, err = registry.Register(ctx, i)
	must(err)
	i.Host = "10.0.0.8"
	_, err = registry.Register(ctx, i)
	if taken, ok := errors.AsType[*discovery.TakenError](err); ok {
		fmt.Println(errors.Is(err, discovery.ErrTaken), taken.Holder.Addr())
	}
	// Output: true 10.0.0.7:8080
}

// A process that must start without etcd registers in the background.
func ExampleWithoutWaiting() {
	ctx, client, stop := connect("background")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()

	orders, err := registry.OpenService(ctx, "orders")
	must(err)
	lists := follow(orders)
	<-lists
	_, err = registry.Register(ctx, discovery.Instance{Service: "orders", ID: "a", Host: "10.0.0.7", Port: 8080}, discovery.WithoutWaiting())
	must(err) // only an invalid instance is an error
	fmt.Println((<-lists)[0].ID)
	// Output: a
}

// Filters narrow the list of instances.
func ExampleService_Instances() {
	ctx, client, stop := connect("filters")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()
	for _, i := range []discovery.Instance{
		{ID: "a", Version: "1.0", Zone: "eu"}, {ID: "b", Version: "1.1", Zone: "eu", Tags: []string{"canary"}}, {ID: "c", Version: "1.1", Zone: "us"},
	} {
		i.Service, i.Host, i.Port = "orders", "10.0.0.7", 8080
		_, err := registry.Register(ctx, i)
		must(err)
	}
	orders, err := registry.OpenService(ctx, "orders")
	must(err)
	show := func(list []discovery.Instance) { fmt.Println(instanceIDs(list)) }
	show(orders.Instances())
	show(orders.Instances(discovery.OnlyVersion("1.1")))
	show(orders.Instances(discovery.OnlyVersion("1.1"), discovery.OnlyZone("eu")))
	show(orders.Instances(discovery.OnlyTag("canary")))
	show(orders.Instances(discovery.Only(func(i *discovery.Instance) bool { return i.ID < "c" })))
	// Output:
	// [a b c]
	// [b c]
	// [b]
	// [b]
	// [a b]
}

// A picker chooses an instance for each call and learns how the call ended.
func ExampleService_Picker() {
	ctx, client, stop := connect("picker")
	defer stop()
	registry, err := discovery.New(client, discovery.WithEjection(1, time.Minute))
	must(err)
	defer registry.Close()
	for _, id := range []string{"a", "b"} {
		_, err := registry.Register(ctx, discovery.Instance{Service: "orders", ID: id, Host: "10.0.0.7", Port: 8080, Zone: "eu"})
		must(err)
	}
	orders, err := registry.OpenService(ctx, "orders")
	must(err)
	picker := orders.Picker(discovery.RoundRobin(), discovery.PreferZone("eu", 1))
	count := map[string]int{}
	for range 10 {
		pick, err := picker.Pick()
		must(err)
		count[pick.Instance.ID]++
		pick.Done(nil)
	}
	fmt.Println(count)

	pick, err := picker.Pick()
	must(err)
	pick.Done(errors.New("connection refused")) // one failure is enough here
	again, err := picker.Pick()
	must(err)
	again.Done(nil)
	fmt.Println(again.Instance.ID != pick.Instance.ID)

	_, err = orders.Picker(discovery.Random(), discovery.OnlyZone("us")).Pick()
	fmt.Println(err)
	// Output:
	// map[a:5 b:5]
	// true
	// discovery: pick "orders": no instance
}

// With the policy Sticky, a key goes to the same instance in every process.
func ExamplePicker_PickFor() {
	ctx, client, stop := connect("sticky")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()
	for _, id := range []string{"a", "b", "c"} {
		_, err := registry.Register(ctx, discovery.Instance{Service: "orders", ID: id, Host: "10.0.0.7", Port: 8080})
		must(err)
	}
	orders, err := registry.OpenService(ctx, "orders")
	must(err)
	same := true
	for n := range 100 {
		key := fmt.Sprint("customer/", n)
		one, err := orders.Picker(discovery.Sticky()).PickFor(key)
		must(err)
		other, err := orders.Picker(discovery.Sticky()).PickFor(key)
		must(err)
		same = same && one.Instance.ID == other.Instance.ID
	}
	fmt.Println(same)
	// Output: true
}

// FollowServices reports the names of all services.
func ExampleRegistry_FollowServices() {
	ctx, client, stop := connect("services")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()
	names := make(chan []string, 10)
	registry.FollowServices(func(all []string) { names <- all })
	fmt.Println(<-names)
	_, err = registry.Register(ctx, discovery.Instance{Service: "orders", ID: "a", Host: "10.0.0.7", Port: 8080})
	must(err)
	fmt.Println(<-names)
	all, err := registry.Services(ctx)
	must(err)
	fmt.Println(all)
	// Output:
	// []
	// [orders]
	// [orders]
}

// An invalid entry is skipped and reported.
func ExampleWithBadEntry() {
	ctx, client, stop := connect("bad")
	defer stop()
	registry, err := discovery.New(client, discovery.WithBadEntry(func(key string, _ int64, err error) { fmt.Println(key, err) }))
	must(err)
	defer registry.Close()
	_, err = client.KV().Put(ctx, "services/orders/instances/b", []byte(`{"host":"10.0.0.7"}`))
	must(err)
	_, err = registry.Register(ctx, discovery.Instance{Service: "orders", ID: "a", Host: "10.0.0.7", Port: 8080})
	must(err)
	orders, err := registry.OpenService(ctx, "orders")
	must(err)
	st := orders.Stats()
	fmt.Println(st.Instances, "instance,", st.Malformed, "malformed,", st.Live, orders.Age() < 5*time.Second)
	// Output:
	// services/orders/instances/b invalid port
	// 1 instance, 1 malformed, true true
}

// WithGRPCNaming reads and writes the format of client/v3/naming.
func ExampleWithGRPCNaming() {
	ctx, client, stop := connect("naming")
	defer stop()
	registry, err := discovery.New(client, discovery.WithGRPCNaming())
	must(err)
	defer registry.Close()
	_, err = client.KV().Put(ctx, "orders/b", []byte(`{"Op":0,"Addr":"10.0.0.8:80","Metadata":{"team":"x"}}`)) // as other programs write it
	must(err)
	_, err = registry.Register(ctx, discovery.Instance{Service: "orders", ID: "a", Host: "10.0.0.7", Port: 8080})
	must(err)
	orders, err := registry.OpenService(ctx, "orders")
	must(err)
	for _, i := range orders.Instances() {
		fmt.Println(i.ID, i.Addr(), i.Metadata)
	}
	// Output:
	// a 10.0.0.7:8080 map[]
	// b 10.0.0.8:80 map[team:x]
}

// A gRPC server registers its services, and a client dials them by name.
func ExampleRegistry_Resolver() {
	ctx, client, stop := connect("grpc")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()

	srv, port := echoServer(ctx, "one") // a server of the service test.Echo, which listens
	reg, err := registry.RegisterGRPC(ctx, srv, discovery.Instance{ID: "one", Host: "127.0.0.1", Port: port}, discovery.WithDrainDelay(100*time.Millisecond))
	must(err)

	conn, err := grpc.NewClient("etcd:///test.Echo", grpc.WithResolvers(registry.Resolver()), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(err)
	defer conn.Close()
	fmt.Println(call(ctx, conn))
	must(reg.Close()) // drains, removes the instance and stops the server gracefully
	// Output: one <nil>
}
