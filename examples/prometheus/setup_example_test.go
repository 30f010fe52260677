package prometheus_test

import harness "github.com/etcdkit/etcdkit/internal/etcdtest"

// newT returns what stands for the *testing.T of a test in an example.
func newT() *harness.ExampleT { return harness.NewExampleT() }
