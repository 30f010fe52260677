package retry

import clientv3 "go.etcd.io/etcd/client/v3"

// Sender sends the requests of a *kv.Store.
type Sender struct {
	*Engine

	KV clientv3.KV // takes absolute keys and does not retry
}

// senderOf returns the sender of a *kv.Store, a type that this package cannot import.
//
//nolint:gochecknoglobals // set once, when package kv is initialized
var senderOf func(store any) (Sender, error)

// Provide sets the function that [SenderOf] calls. Package kv calls Provide.
func Provide(f func(store any) (Sender, error)) bool {
	senderOf = f
	return true
}

// SenderOf returns the sender of a *kv.Store, and the error of the store if it is not usable.
func SenderOf(store any) (Sender, error) { return senderOf(store) }
