package kv

import (
	"context"
	"fmt"
	"reflect"
	"runtime"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// embedsNil reports whether kv is a struct that embeds a nil clientv3.KV, as fakes that implement
// only some methods do. Calling another method of such a struct panics.
func embedsNil(kv clientv3.KV) bool {
	v := reflect.Indirect(reflect.ValueOf(kv))
	if v.Kind() != reflect.Struct {
		return false
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous && f.Type == reflect.TypeFor[clientv3.KV]() && v.Field(i).IsNil() {
			return true
		}
	}
	return false
}

// partialKV returns an error if the KV below lacks a method that a Store calls.
type partialKV struct{ clientv3.KV }

// recoverMissing converts the panic of a missing method to an error.
func (p partialKV) recoverMissing(method string, err *error) { //nolint:gocritic // a deferred call sets it
	switch r := recover().(type) {
	case nil:
	case runtime.Error:
		*err = fmt.Errorf("%w: the client's KV (%T) has no %s of its own, and embeds no KV that has one: %w", errs.Invalid, p.KV, method, r)
	default:
		panic(r)
	}
}

// Get implements clientv3.KV.
func (p partialKV) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (resp *clientv3.GetResponse, err error) {
	defer p.recoverMissing("Get", &err)
	return p.KV.Get(ctx, key, opts...)
}

// GetStream implements clientv3.KV.
func (p partialKV) GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (stream clientv3.GetStreamChan, err error) {
	defer p.recoverMissing("GetStream", &err)
	return p.KV.GetStream(ctx, key, opts...)
}

// Do implements clientv3.KV.
func (p partialKV) Do(ctx context.Context, op clientv3.Op) (resp clientv3.OpResponse, err error) {
	defer p.recoverMissing("Do", &err)
	return p.KV.Do(ctx, op)
}

// Txn implements clientv3.KV.
func (p partialKV) Txn(ctx context.Context) clientv3.Txn {
	txn, err := p.startTxn(ctx)
	if err != nil {
		return &namespacedTxn{err: err}
	}
	return txn
}

func (p partialKV) startTxn(ctx context.Context) (txn clientv3.Txn, err error) {
	defer p.recoverMissing("Txn", &err)
	return p.KV.Txn(ctx), nil
}
