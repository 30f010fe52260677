package retry

import clientv3 "go.etcd.io/etcd/client/v3"

// Sender is what a *kv.Store sends its requests with.
type Sender struct {
	*Engine

	KV clientv3.KV // with absolute keys; it repeats nothing
}

// senderOf returns the sender of a *kv.Store, a type that this package cannot name.
//
//nolint:gochecknoglobals // set once, when package kv is initialized
var senderOf func(store any) (Sender, error)

// Provide makes f the source of [SenderOf]. Package kv calls it.
func Provide(f func(store any) (Sender, error)) bool {
	senderOf = f
	return true
}

// SenderOf returns the sender of a *kv.Store. The error says what is wrong with the store.
func SenderOf(store any) (Sender, error) { return senderOf(store) }
