package codec_test

import (
	"errors"
	"fmt"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/kv/codec"
)

// To rotate keys, use both, write each value again, and remove the old key.
func ExampleAESGCM() {
	ctx, store, done := connect("rotation")
	defer done()

	// From a secret store.
	oldKey := codec.Key{ID: "2025", Secret: []byte("0123456789abcdef0123456789abcdef")}
	newKey := codec.Key{ID: "2026", Secret: []byte("fedcba9876543210fedcba9876543210")}
	open := func(first codec.Key, others ...codec.Key) kv.Typed[string] {
		ring, err := codec.NewKeyRing(first, others...)
		must(err)
		return kv.NewTyped(store, "notes", codec.With(kv.String(), codec.Gzip(1024), codec.AESGCM(ring)))
	}
	_, err := open(oldKey).Put(ctx, "1", "buy milk")
	must(err)

	// The new key is for writes. An update that changes nothing writes the value again.
	notes := open(newKey, oldKey)
	for key, err := range notes.Keys(ctx) {
		must(err)
		_, err = notes.Update(ctx, key, func(*string) error { return nil })
		if !errors.Is(err, kv.ErrNotFound) { // deleted meanwhile
			must(err)
		}
	}

	// The old key is no longer needed.
	note, err := open(newKey).Get(ctx, "1")
	fmt.Println(note.Value, err)
	_, err = open(oldKey).Get(ctx, "1")
	fmt.Println(errors.Is(err, codec.ErrUnknownKey))
	// Output:
	// buy milk <nil>
	// true
}

// A codec with layers is used like any other. Compress before you encrypt.
func Example() {
	ring, err := codec.NewKeyRing(codec.Key{ID: "1", Secret: []byte("0123456789abcdef")})
	must(err)
	c := codec.With(kv.JSON[map[string]int](), codec.Gzip(1024), codec.AESGCM(ring))
	b, err := c.Encode("stock", map[string]int{"tea": 1})
	must(err)
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
	ctx, store, done := connect("migration")
	defer done()
	_, err := kv.NewTyped(store, "notes", kv.String()).Put(ctx, "1", "buy milk")
	must(err)

	ring, err := codec.NewKeyRing(codec.Key{ID: "2026", Secret: []byte("0123456789abcdef0123456789abcdef")})
	must(err)
	encrypted := kv.NewTyped(store, "notes", codec.With(kv.String(), codec.AESGCM(ring)))
	_, err = encrypted.Get(ctx, "1")
	fmt.Println("refused:", errors.Is(err, codec.ErrFormat))

	// All processes use this codec while the values are written again.
	migrating := kv.NewTyped(store, "notes", codec.With(kv.String(), codec.AESGCM(ring, codec.WithPlaintextReads())))
	for key, err := range migrating.Keys(ctx) {
		must(err)
		_, err = migrating.Update(ctx, key, func(*string) error { return nil })
		if !errors.Is(err, kv.ErrNotFound) { // deleted meanwhile
			must(err)
		}
	}

	note, err := encrypted.Get(ctx, "1")
	fmt.Println(note.Value, err)
	// Output:
	// refused: true
	// buy milk <nil>
}
