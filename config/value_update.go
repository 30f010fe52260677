package config

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/kv"
)

const (
	maxUpdateConflicts = 64
	minUpdateBackoff   = time.Millisecond
	maxUpdateBackoff   = 32 * time.Millisecond
)

// Update reads the value from etcd, calls f to modify it, and writes what f has changed, provided
// that no other writer has changed it in between. Otherwise it starts over, so f must not have side
// effects. f receives its own copy, decoded from etcd's current state; keys missing from etcd come
// from the fallback file and the defaults. The environment is ignored, because it belongs to this
// process only. The result is validated before it is written. If f returns an error, Update returns
// it and writes nothing.
//
// Update waits until Load returns the new value, as [Value.Set] does, and returns the revision of
// the write, or 0 and nil if f changed nothing. If the current value is invalid, or missing from
// etcd, the fallback file and the defaults, Update returns a [*BadValueError], as [Bind] does; use
// Set to replace it. After 64 conflicts Update returns kv.ErrConflict. f must not update the same
// value.
//
// For a directory, all keys of the struct are read at one revision, and the changed ones are
// written in one transaction that depends on all of them. etcd's limit is 128 keys; beyond it,
// Update returns kv.ErrTooLarge. kv.WithOnce is not allowed for a directory.
//
// It costs two RPCs, plus at most two per conflict.
func (v *Value[T]) Update(ctx context.Context, f func(*T) error, o ...kv.WriteOption) (rev int64, err error) {
	const op = "update"
	if f == nil {
		err = errs.Invalidf("nil function")
	} else {
		err = v.src.checkOpen()
	}
	if err != nil {
		return 0, opError(op, v.path, err)
	}
	if v.schema != nil {
		rev, err = v.updateDir(ctx, f, o)
	} else {
		rev, err = v.updateKey(ctx, f, o)
	}
	if err != nil {
		return 0, kvError(op, v.path, err)
	}
	v.src.awaitRevision(ctx, rev) // 0 returns at once
	return rev, nil
}

// updateKey is Update for a key.
func (v *Value[T]) updateKey(ctx context.Context, f func(*T) error, o []kv.WriteOption) (int64, error) {
	opts := []kv.UpdateOption{kv.WithUpsert()}
	for _, one := range o {
		opts = append(opts, one)
	}
	changed := false
	e, err := v.src.store.Update(ctx, v.path, func(cur kv.Entry[[]byte]) ([]byte, error) {
		etcd := make(layer)
		if changed = false; cur.ModRevision != 0 {
			etcd[v.path] = item{value: nonNil(cur.Value), rev: cur.ModRevision, origin: Live}
		}
		before, after, err := v.apply(v.storedItems(etcd), f)
		if err != nil {
			return nil, err
		}
		if reflect.DeepEqual(before, after) {
			return nil, kv.ErrSkipUpdate
		}
		b, err := v.encode(*after)
		if err != nil {
			return nil, err
		}
		if old, err := v.encode(*before); err == nil && bytes.Equal(old, b) {
			return nil, kv.ErrSkipUpdate
		}
		changed = true
		return b, nil
	}, opts...)
	if err != nil || !changed {
		return 0, err
	}
	return e.ModRevision, nil
}

// updateDir is Update for a directory.
func (v *Value[T]) updateDir(ctx context.Context, f func(*T) error, o []kv.WriteOption) (int64, error) {
	backoff := retry.Policy{BaseDelay: minUpdateBackoff, MaxDelay: maxUpdateBackoff}.Backoff()
	backoff.Reset()
	for range maxUpdateConflicts {
		etcd, rev, err := v.read(ctx)
		if err != nil {
			return 0, err
		}
		before, after, err := v.apply(v.storedItems(etcd), f)
		if err != nil {
			return 0, err
		}
		d := dirWrite{schema: v.schema, dir: v.path, storedKeys: func(at string) []string { return (&layers{etcd: etcd}).keys(at, false) }}
		if err := d.diff(reflect.ValueOf(before).Elem(), reflect.ValueOf(after).Elem()); err != nil {
			return 0, err
		}
		if len(d.ops) == 0 {
			return 0, nil
		}
		resp, err := v.src.store.Txn(ctx).With(o...).If(v.unchanged(etcd, rev)...).Then(d.ops...).Commit()
		if err != nil {
			return 0, err
		}
		if resp.Succeeded {
			return changeRevision(resp), nil
		}
		if err := retry.Sleep(ctx, backoff.NextBackOff()); err != nil {
			return 0, fmt.Errorf("%w: %w", kv.ErrConflict, err)
		}
	}
	return 0, fmt.Errorf("%w: %d times in a row", kv.ErrConflict, maxUpdateConflicts)
}

// apply decodes items and returns the value before and after f has modified it.
func (v *Value[T]) apply(items []keyedItem, f func(*T) error) (before, after *T, err error) {
	if before, err = v.decode(items); err != nil {
		return nil, nil, err
	}
	if after, err = v.decode(items); err != nil {
		return nil, nil, err
	}
	own := *after
	clone(reflect.ValueOf(&own).Elem()) // defaults are shared
	if err := f(&own); err != nil {
		return nil, nil, err
	}
	return before, &own, v.validate(own)
}

// storedItems returns the items of v in etcd's given state, and in the fallback file below it.
func (v *Value[T]) storedItems(etcd layer) []keyedItem {
	v.src.mu.RLock()
	defer v.src.mu.RUnlock()
	return v.items(&layers{etcd: etcd, fallback: v.src.layers.fallback})
}

// read reads the keys of the struct at one revision.
func (v *Value[T]) read(ctx context.Context) (etcd layer, rev int64, err error) {
	ops := make([]clientv3.Op, 0, len(v.schema.fields))
	for _, l := range v.schema.fields {
		if l.dir {
			ops = append(ops, clientv3.OpGet(v.path+l.name+"/", clientv3.WithPrefix()))
		} else {
			ops = append(ops, clientv3.OpGet(v.path+l.name))
		}
	}
	resp, err := v.src.store.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, 0, err
	}
	etcd = make(layer)
	for _, r := range resp.Responses {
		for _, e := range r.GetResponseRange().GetKvs() {
			etcd[string(e.GetKey())] = item{value: nonNil(e.GetValue()), rev: e.GetModRevision(), origin: Live}
		}
	}
	return etcd, resp.Header.GetRevision(), nil
}

// unchanged returns comparisons that hold if the struct has the same keys and values as at rev.
func (v *Value[T]) unchanged(etcd layer, rev int64) []clientv3.Cmp {
	var out []clientv3.Cmp
	for key, it := range etcd {
		out = append(out, clientv3.Compare(clientv3.ModRevision(key), "=", it.rev))
	}
	for _, l := range v.schema.fields {
		key := v.path + l.name
		if l.dir {
			out = append(out, clientv3.Compare(clientv3.ModRevision(key+"/"), "<", rev+1).WithPrefix())
		} else if _, found := etcd[key]; !found {
			out = append(out, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		}
	}
	return out
}

// clone replaces everything v refers to by copies. v must be settable.
func clone(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			own := reflect.New(v.Type().Elem())
			own.Elem().Set(v.Elem())
			clone(own.Elem())
			v.Set(own)
		}
	case reflect.Interface:
		if !v.IsNil() {
			own := reflect.New(v.Elem().Type()).Elem()
			own.Set(v.Elem())
			clone(own)
			v.Set(own)
		}
	case reflect.Slice:
		if !v.IsNil() {
			own := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
			reflect.Copy(own, v)
			v.Set(own)
		}
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			clone(v.Index(i))
		}
	case reflect.Map:
		if v.IsNil() {
			return
		}
		own := reflect.MakeMapWithSize(v.Type(), v.Len())
		for entries := v.MapRange(); entries.Next(); {
			elem := reflect.New(v.Type().Elem()).Elem()
			elem.Set(entries.Value())
			clone(elem)
			own.SetMapIndex(entries.Key(), elem)
		}
		v.Set(own)
	case reflect.Struct:
		for _, field := range v.Fields() {
			if field.CanSet() {
				clone(field)
			}
		}
	}
}
