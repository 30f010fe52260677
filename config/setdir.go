package config

import (
	"context"
	"fmt"
	"reflect"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/kv"
)

// setDir writes all fields of a struct in one transaction.
func (v *Value[T]) setDir(ctx context.Context, x T, o []kv.PutOption) (int64, error) {
	const op = "set"
	if err := v.src.usable(); err != nil {
		return 0, fail(op, v.at, err)
	}
	if len(o) > 0 {
		return 0, fail(op, v.at, invalid("a dir is set without options"))
	}
	if ctx == nil {
		return 0, fail(op, v.at, invalid("nil context"))
	}
	values, gone, err := v.encodeDir(x)
	if err != nil {
		return 0, fail(op, v.at, err)
	}
	rev, err := v.src.commit(ctx, values, gone)
	if err != nil {
		return 0, failed(op, v.at, err)
	}
	v.src.await(ctx, rev) // 0 is there already
	return rev, nil
}

// encodeDir returns what is to be written, and the keys that are to be deleted.
func (v *Value[T]) encodeDir(x T) (values map[string][]byte, gone []string, err error) {
	values = make(map[string][]byte)
	from := reflect.ValueOf(&x).Elem()
	put := func(l *leaf, key string, field reflect.Value) {
		if err = keyspace.Name(key); err != nil { // an entry of a map may be called anything
			err = fmt.Errorf("field %s: %w", l.field, err)
			return
		}
		var b []byte
		if p := told(func() { b, err = l.encode(field) }); p != nil {
			err = p
		}
		if err != nil {
			err = invalid("field %s: %w", l.field, err)
			return
		}
		values[key] = b
	}
	for i := range v.plan.leaves {
		l := &v.plan.leaves[i]
		field, key := from.FieldByIndex(l.index), v.at+l.name
		switch {
		case l.dir:
			for entries := field.MapRange(); err == nil && entries.Next(); {
				put(l, key+"/"+entries.Key().String(), entries.Value())
			}
			gone = append(gone, v.src.keysBelow(key+"/")...)
		case field.Kind() == reflect.Pointer && field.IsNil():
			gone = append(gone, key)
		default:
			put(l, key, field)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	left := gone[:0]
	for _, key := range gone {
		if _, ok := values[key]; !ok {
			left = append(left, key)
		}
	}
	return values, left, nil
}

// keysBelow returns the keys below a dir that etcd has.
func (s *Source) keysBelow(dir string) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return (&layers{etcd: s.layers.etcd}).keys(dir)
}

// commit writes and deletes keys in one transaction. The revision is 0 where there was nothing to delete: then nothing has
// happened at that which the answer tells, and the source need never come to it.
func (s *Source) commit(ctx context.Context, values map[string][]byte, gone []string) (int64, error) {
	ops := make([]clientv3.Op, 0, len(values)+len(gone))
	for key, b := range values {
		ops = append(ops, clientv3.OpPut(key, string(b)))
	}
	for _, key := range gone {
		ops = append(ops, clientv3.OpDelete(key))
	}
	if len(ops) == 0 {
		return 0, invalid("there is nothing to write")
	}
	resp, err := s.store.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return 0, err
	}
	changed := len(values) > 0
	for _, r := range resp.Responses {
		changed = changed || r.GetResponseDeleteRange().GetDeleted() > 0
	}
	if !changed {
		return 0, nil
	}
	return resp.Header.GetRevision(), nil
}
