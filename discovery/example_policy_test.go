package discovery_test

import (
	"fmt"

	"github.com/etcdkit/etcdkit/discovery"
)

// cheapestPolicy picks the instance with the lowest price.
type cheapestPolicy struct{}

func (cheapestPolicy) Choose(c discovery.Candidates, _ string) int {
	best := 0
	for n := range c.Len() {
		if c.At(n).Metadata["price"] < c.At(best).Metadata["price"] {
			best = n
		}
	}
	return best
}

// A custom policy has one method.
func ExamplePolicy() {
	ctx, client, stop := connect("policy")
	defer stop()
	registry, err := discovery.New(client)
	must(err)
	defer registry.Close()
	for id, price := range map[string]string{"a": "3", "b": "1", "c": "2"} {
		_, err := registry.Register(ctx, discovery.Instance{
			Service: "orders", ID: id, Host: "10.0.0.7", Port: 8080, Metadata: map[string]string{"price": price},
		})
		must(err)
	}
	orders, err := registry.OpenService(ctx, "orders")
	must(err)
	pick, err := orders.Picker(cheapestPolicy{}).Pick()
	must(err)
	fmt.Println(pick.Instance.ID)
	// Output: b
}
