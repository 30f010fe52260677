package config

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/kv"
)

// setDir writes the fields of a struct that have changed, in one transaction.
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
	v.mu.Lock()
	latest := v.latest
	v.mu.Unlock()
	d := dirWrite{plan: v.plan, dir: v.at, stored: v.src.stored}
	before := *v.def
	for _, bad := range v.fill(&before, latest) {
		d.rewrite = append(d.rewrite, bad.Key)
	}
	if err := d.diff(reflect.ValueOf(&before).Elem(), reflect.ValueOf(&x).Elem()); err != nil {
		return 0, fail(op, v.at, err)
	}
	if len(d.ops) == 0 {
		return 0, nil
	}
	resp, err := v.src.store.Txn(ctx).Then(d.ops...).Commit()
	if err != nil {
		return 0, failed(op, v.at, err)
	}
	rev := changedAt(resp)
	v.src.await(ctx, rev) // 0 is there already
	return rev, nil
}

// dirWrite is what is to be written so that a dir holds another struct.
type dirWrite struct {
	*plan

	dir     string
	stored  func(dir string) []string // the keys that etcd has at or below a key
	rewrite []string                  // keys that are written whether their field has changed or not
	ops     []clientv3.Op
}

// diff finds out what has to be written to make after of before.
func (d *dirWrite) diff(before, after reflect.Value) error {
	for i := range d.leaves {
		l := &d.leaves[i]
		key := d.dir + l.name
		was, is := before.FieldByIndex(l.index), after.FieldByIndex(l.index)
		var err error
		switch {
		case l.dir:
			err = d.diffMap(l, key, was, is)
		case (is.Kind() == reflect.Pointer || is.Kind() == reflect.Interface) && is.IsNil():
			d.delete(key, func(stored string) bool { return stored == key })
		default:
			err = d.put(l, key, was, is)
		}
		if err != nil {
			return fmt.Errorf("field %s: %w", l.field, err)
		}
	}
	return nil
}

// diffMap is diff for a map whose entries are keys.
func (d *dirWrite) diffMap(l *leaf, key string, was, is reflect.Value) error {
	keep := make(map[string]bool, is.Len())
	for entries := is.MapRange(); entries.Next(); {
		name := key + "/" + entries.Key().String()
		if err := keyspace.Name(name); err != nil { // an entry may be called anything
			return err
		}
		keep[name] = true
		if err := d.put(l, name, was.MapIndex(entries.Key()), entries.Value()); err != nil {
			return err
		}
	}
	d.delete(key+"/", func(stored string) bool { return !keep[stored] })
	return nil
}

// put adds the write of a key, unless its value is the same. was is invalid where there is none.
func (d *dirWrite) put(l *leaf, key string, was, is reflect.Value) error {
	compare := was.IsValid() && !slices.Contains(d.rewrite, key)
	if compare && reflect.DeepEqual(was.Interface(), is.Interface()) {
		return nil // also what can be read, and not written
	}
	b, err := l.encode(is)
	if err != nil {
		return err
	}
	if compare {
		if old, err := l.encode(was); err == nil && bytes.Equal(old, b) {
			return nil
		}
	}
	d.ops = append(d.ops, clientv3.OpPut(key, string(b)))
	return nil
}

// delete adds the deletion of those keys at or below a key that etcd has, and that are unwanted.
func (d *dirWrite) delete(at string, unwanted func(stored string) bool) {
	for _, key := range d.stored(at) {
		if unwanted(key) {
			d.ops = append(d.ops, clientv3.OpDelete(key))
		}
	}
}

// stored returns the keys that etcd has at or below a key, as far as the source knows.
func (s *Source) stored(at string) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return (&layers{etcd: s.layers.etcd}).keys(at, false)
}

// changedAt returns the revision of a transaction; 0 if it has only deleted, and there was nothing to delete: then nothing
// has happened at its revision, and the source need never come to it.
func changedAt(resp *clientv3.TxnResponse) int64 {
	for _, r := range resp.Responses {
		if r.GetResponsePut() != nil || r.GetResponseDeleteRange().GetDeleted() > 0 {
			return resp.Header.GetRevision()
		}
	}
	return 0
}
