package cache

import (
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// decoder decodes stored bytes into values.
type decoder[T any] struct {
	codec         kv.Codec[T]
	keyPrefix     string // the dir, which prefixes the keys passed to the codec
	seed          maphash.Seed
	readOnlyCheck bool // hash values when they are decoded and returned
}

func newDecoder[T any](prefix string, codec kv.Codec[T], check bool) decoder[T] {
	return decoder[T]{codec: codec, keyPrefix: prefix, seed: maphash.MakeSeed(), readOnlyCheck: check}
}

// decode returns the value of a key, and its hash if values are checked. A codec that panics counts
// as a decoding error.
func (d *decoder[T]) decode(key string, b []byte, rev int64) (v T, sum uint64, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &decodeError{rev: rev, cause: fmt.Errorf("the codec panicked: %v", p)}
		}
	}()
	if v, err = d.codec.Decode(d.keyPrefix+key, b); err != nil {
		var zero T
		return zero, 0, &decodeError{rev: rev, cause: err}
	}
	if p, ok := any(&v).(*[]byte); ok {
		*p = slices.Clip(*p) // so that append copies
	}
	if d.readOnlyCheck {
		sum = d.checksum(key, v)
	}
	return v, sum, nil
}

// checksum returns the hash of a value as encoded by the codec.
func (d *decoder[T]) checksum(key string, v T) uint64 {
	codec := d.codec
	if layered, ok := codec.(interface{ Base() kv.Codec[T] }); ok {
		codec = layered.Base() // an encrypting codec writes different bytes each time
	}
	b, err := codec.Encode(d.keyPrefix+key, v)
	if err != nil {
		panic(fmt.Sprintf("cache: the value of %s was changed by a reader: it cannot be encoded any more", errs.Quote(key)))
	}
	return maphash.Bytes(d.seed, b)
}

// verify panics if the value has changed since it was decoded.
func (d *decoder[T]) verify(key string, v T, sum uint64) {
	if d.readOnlyCheck && d.checksum(key, v) != sum {
		panic(fmt.Sprintf("cache: the value of %s was changed by a reader: values of a cache are shared and read-only", errs.Quote(key)))
	}
}
