package prometheus_test

import (
	"fmt"

	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/examples/prometheus"
)

// A registry collects the metrics of a client and the durations of its operations.
func Example() {
	t := newT() // a program opens its client with etcdkit.Open
	defer t.Finish()

	seconds, observer := prometheus.NewDurations()
	client := etcdtest.Open(t, etcdkit.WithObserver(observer))
	registry := prom.NewRegistry()
	registry.MustRegister(seconds, prometheus.Collector{Client: client})

	if _, err := client.Locks().Mutex("nightly").Lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "etcdkit_lock_acquired_total" {
			fmt.Println(f.GetName(), f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	// Output: etcdkit_lock_acquired_total 1
}
