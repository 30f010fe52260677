package codec_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/kv/codec"
)

func ExampleAESGCM() {
	ctx := context.Background()
	cli, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.Endpoints(), DialTimeout: 5 * time.Second})
	if err != nil {
		panic(err)
	}
	defer func() { _ = cli.Close() }()
	store, err := kv.New(cli, kv.WithNamespace("example/codec"))
	if err != nil {
		panic(err)
	}

	// From a secret store.
	oldKey := codec.Key{ID: "2025", Secret: []byte("0123456789abcdef0123456789abcdef")}
	newKey := codec.Key{ID: "2026", Secret: []byte("fedcba9876543210fedcba9876543210")}
	open := func(first codec.Key, others ...codec.Key) kv.Typed[string] {
		ring, err := codec.NewKeyRing(first, others...)
		if err != nil {
			panic(err)
		}
		return kv.NewTyped(store, "notes", codec.With(kv.String(), codec.Gzip(1024), codec.AESGCM(ring)))
	}
	if _, err := open(oldKey).Put(ctx, "1", "buy milk"); err != nil {
		panic(err)
	}

	// Both keys are in use: the new one for writes. Write each value again.
	notes := open(newKey, oldKey)
	for key, err := range notes.Keys(ctx) {
		if err != nil {
			panic(err)
		}
		_, err = notes.Update(ctx, key, func(*string) error { return nil })
		if err != nil && !errors.Is(err, kv.ErrNotFound) { // deleted meanwhile
			panic(err)
		}
	}

	// The old key can be removed.
	note, err := open(newKey).Get(ctx, "1")
	fmt.Println(note.Value, err)
	_, err = open(oldKey).Get(ctx, "1")
	fmt.Println(errors.Is(err, codec.ErrUnknownKey))
	// Output:
	// buy milk <nil>
	// true
}

// A codec with layers is used like any other. Compress before you encrypt.
func ExampleWith() {
	ring, err := codec.NewKeyRing(codec.Key{ID: "1", Secret: []byte("0123456789abcdef")})
	if err != nil {
		panic(err)
	}
	c := codec.With(kv.JSON[map[string]int](), codec.Gzip(1024), codec.AESGCM(ring))
	b, err := c.Encode("stock", map[string]int{"tea": 1})
	if err != nil {
		panic(err)
	}
	v, err := c.Decode("stock", b)
	fmt.Println(v, err)
	_, err = c.Decode("price", b)
	fmt.Println(errors.Is(err, codec.ErrAuthentication))
	// Output:
	// map[tea:1] <nil>
	// true
}

// To encrypt existing data, accept plaintext, write each value again, and then refuse plaintext.
// Programs without the layer cannot read encrypted values: stop them first.
func ExampleWithPlaintextReads() {
	ctx := context.Background()
	cli, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.Endpoints(), DialTimeout: 5 * time.Second})
	if err != nil {
		panic(err)
	}
	defer func() { _ = cli.Close() }()
	store, err := kv.New(cli, kv.WithNamespace("example/plaintext"))
	if err != nil {
		panic(err)
	}
	if _, err := kv.NewTyped(store, "notes", kv.String()).Put(ctx, "1", "buy milk"); err != nil {
		panic(err)
	}

	ring, err := codec.NewKeyRing(codec.Key{ID: "2026", Secret: []byte("0123456789abcdef0123456789abcdef")})
	if err != nil {
		panic(err)
	}
	encrypted := kv.NewTyped(store, "notes", codec.With(kv.String(), codec.AESGCM(ring)))
	_, err = encrypted.Get(ctx, "1")
	fmt.Println("refused:", errors.Is(err, codec.ErrFormat))

	// All processes use this codec while the values are written again.
	migrating := kv.NewTyped(store, "notes", codec.With(kv.String(), codec.AESGCM(ring, codec.WithPlaintextReads())))
	for key, err := range migrating.Keys(ctx) {
		if err != nil {
			panic(err)
		}
		_, err = migrating.Update(ctx, key, func(*string) error { return nil })
		if err != nil && !errors.Is(err, kv.ErrNotFound) { // deleted meanwhile
			panic(err)
		}
	}

	note, err := encrypted.Get(ctx, "1")
	fmt.Println(note.Value, err)
	// Output:
	// refused: true
	// buy milk <nil>
}
