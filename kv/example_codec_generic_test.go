package kv_test

import (
	"bytes"
	"encoding/gob"
	"fmt"

	"github.com/etcdkit/etcdkit/kv"
)

// gobs is a codec that uses encoding/gob.
type gobs[T any] struct{}

func (gobs[T]) Encode(_ string, v T) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

func (gobs[T]) Decode(_ string, b []byte) (v T, err error) {
	err = gob.NewDecoder(bytes.NewReader(b)).Decode(&v)
	return v, err
}

// A codec can be generic.
func ExampleCodec_generic() {
	ctx, cli, store := connect("gob")
	defer cli.Close()

	matrices := kv.NewTyped(store, "matrices", gobs[[][]float64]{})
	_, err := matrices.Put(ctx, "identity", [][]float64{{1, 0}, {0, 1}})
	must(err)
	e, err := matrices.Get(ctx, "identity")
	must(err)
	fmt.Println(e.Value)
	// Output: [[1 0] [0 1]]
}
