package etcdkit_test

import "github.com/etcdkit/etcdkit/internal/etcdtest"

// endpoints returns the endpoints of the server that the examples use.
func endpoints() []string { return etcdtest.Endpoints() }
