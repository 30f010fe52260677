package etcdtest

import harness "github.com/etcdkit/etcdkit/internal/etcdtest"

// Option changes how [Start] and [StartCluster] run servers.
type Option func(*options)

type options struct{ harness []harness.Option }

// WithFlags adds flags of etcd, such as "--max-txn-ops=1024". They override the flags that this
// package sets.
func WithFlags(flags ...string) Option {
	return func(o *options) { o.harness = append(o.harness, harness.WithFlags(flags...)) }
}

// WithUnixSocket makes servers listen for clients on a Unix socket instead of a loopback port.
func WithUnixSocket() Option {
	return func(o *options) { o.harness = append(o.harness, harness.WithUnixSocket()) }
}
