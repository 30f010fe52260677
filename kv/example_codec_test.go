package kv_test

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/etcdkit/etcdkit/kv"
)

// counter is a codec for eight bytes.
type counter struct{}

func (counter) Encode(_ string, v uint64) ([]byte, error) {
	return binary.BigEndian.AppendUint64(nil, v), nil
}

func (counter) Decode(_ string, b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%d bytes instead of 8", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// A custom codec is a type with two methods.
func ExampleCodec() {
	ctx, cli, store := connect("codec")
	defer cli.Close()

	counters := kv.NewTyped(store, "counters", counter{})
	for range 2 {
		_, err := counters.Update(ctx, "requests", func(n *uint64) error { *n++; return nil }, kv.WithUpsert())
		must(err)
	}
	e, err := counters.Get(ctx, "requests")
	must(err)
	fmt.Println(e.Value)

	_, err = store.Put(ctx, "counters/broken", []byte("seven"))
	must(err)
	_, err = counters.Get(ctx, "broken")
	fmt.Println(errors.Is(err, kv.ErrDecode))
	// Output:
	// 2
	// true
}
