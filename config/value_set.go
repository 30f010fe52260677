package config

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/kv"
)

// setDir writes the changed fields of a struct in one transaction.
func (v *Value[T]) setDir(ctx context.Context, x T, o []kv.PutOption) (int64, error) {
	const op = "set"
	if err := v.src.checkOpen(); err != nil {
		return 0, opError(op, v.path, err)
	}
	if len(o) > 0 {
		return 0, opError(op, v.path, errs.Invalidf("options cannot be used with a directory"))
	}
	v.mu.Lock()
	latest := v.latest
	v.mu.Unlock()
	d := dirWrite{schema: v.schema, dir: v.path, storedKeys: v.src.storedKeys}
	before := *v.defaultValue
	for _, bad := range v.fill(&before, latest) {
		d.rewrite = append(d.rewrite, bad.Key)
	}
	if err := d.diff(reflect.ValueOf(&before).Elem(), reflect.ValueOf(&x).Elem()); err != nil {
		return 0, opError(op, v.path, err)
	}
	if len(d.ops) == 0 {
		return 0, nil
	}
	resp, err := v.src.store.Txn(ctx).Then(d.ops...).Commit()
	if err != nil {
		return 0, kvError(op, v.path, err)
	}
	rev := changeRevision(resp)
	v.src.awaitRevision(ctx, rev) // 0 returns at once
	return rev, nil
}

// dirWrite collects the operations that turn one struct into another.
type dirWrite struct {
	*schema

	dir        string
	storedKeys func(dir string) []string // returns etcd's keys at or below a key
	rewrite    []string                  // keys to write even if unchanged
	ops        []clientv3.Op
}

// diff adds the operations that turn before into after.
func (d *dirWrite) diff(before, after reflect.Value) error {
	for i := range d.fields {
		l := &d.fields[i]
		key := d.dir + l.name
		old, cur := before.FieldByIndex(l.index), after.FieldByIndex(l.index)
		var err error
		switch {
		case l.dir:
			err = d.diffMap(l, key, old, cur)
		case (cur.Kind() == reflect.Pointer || cur.Kind() == reflect.Interface) && cur.IsNil():
			d.delete(key, func(stored string) bool { return stored == key })
		default:
			err = d.put(l, key, old, cur)
		}
		if err != nil {
			return fmt.Errorf("field %s: %w", l.goName, err)
		}
	}
	return nil
}

// diffMap is diff for a map with one key per entry.
func (d *dirWrite) diffMap(l *field, key string, old, cur reflect.Value) error {
	keep := make(map[string]bool, cur.Len())
	for entries := cur.MapRange(); entries.Next(); {
		name := key + "/" + entries.Key().String()
		if err := keyspace.Name(name); err != nil { // entry names are arbitrary
			return err
		}
		keep[name] = true
		if err := d.put(l, name, old.MapIndex(entries.Key()), entries.Value()); err != nil {
			return err
		}
	}
	d.delete(key+"/", func(stored string) bool { return !keep[stored] })
	return nil
}

// put adds a write of key unless its value is unchanged. old is invalid if there is none.
func (d *dirWrite) put(l *field, key string, old, cur reflect.Value) error {
	compare := old.IsValid() && !slices.Contains(d.rewrite, key)
	if compare && reflect.DeepEqual(old.Interface(), cur.Interface()) {
		return nil // also for types that cannot be encoded
	}
	b, err := l.encode(cur)
	if err != nil {
		return err
	}
	if compare {
		if old, err := l.encode(old); err == nil && bytes.Equal(old, b) {
			return nil
		}
	}
	d.ops = append(d.ops, clientv3.OpPut(key, string(b)))
	return nil
}

// delete adds deletions of etcd's unwanted keys at or below a key.
func (d *dirWrite) delete(at string, unwanted func(stored string) bool) {
	for _, key := range d.storedKeys(at) {
		if unwanted(key) {
			d.ops = append(d.ops, clientv3.OpDelete(key))
		}
	}
}

// storedKeys returns etcd's keys at or below a key, as known to the source.
func (s *Source) storedKeys(at string) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return (&layers{etcd: s.layers.etcd}).keys(at, false)
}

// changeRevision returns the revision of a transaction, or 0 if it deleted nothing and wrote
// nothing: such a transaction has no revision that the source could wait for.
func changeRevision(resp *clientv3.TxnResponse) int64 {
	for _, r := range resp.Responses {
		if r.GetResponsePut() != nil || r.GetResponseDeleteRange().GetDeleted() > 0 {
			return resp.Header.GetRevision()
		}
	}
	return 0
}
