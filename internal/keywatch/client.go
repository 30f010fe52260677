package keywatch

import clientv3 "go.etcd.io/etcd/client/v3"

// clientOf returns the client of a *watch.Watcher, a type that this package cannot name.
//
//nolint:gochecknoglobals // set once, when package watch is initialized
var clientOf func(watcher any) (cli *clientv3.Client, clientV3 bool)

// Provide makes f the source of [ClientOf]. Package watch calls it.
func Provide(f func(watcher any) (cli *clientv3.Client, clientV3 bool)) bool {
	clientOf = f
	return true
}

// ClientOf returns the client of a *watch.Watcher, or nil if the watcher has none. clientV3 reports
// whether the client's Watcher is client/v3's own, so that a stream over its connection does the
// same.
func ClientOf(watcher any) (cli *clientv3.Client, clientV3 bool) { return clientOf(watcher) }
