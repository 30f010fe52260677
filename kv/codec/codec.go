package codec

import (
	"errors"
	"fmt"
	"slices"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// Errors for values that a layer cannot unwrap.
var (
	// ErrFormat means that a stored value was not written by the layer, or is truncated.
	ErrFormat = errors.New("not in the format of the layer")
	// ErrUnknownKey means that a value was encrypted with a key that is not in the ring.
	ErrUnknownKey = errors.New("no such key in the ring")
	// ErrAuthentication means that a value was modified, was encrypted for another key of the
	// store, or was encrypted with a different secret of the same ID.
	ErrAuthentication = errors.New("authentication failed")
)

// Layer transforms encoded values before they are stored and after they are read. key is the key of
// the entry, as passed to a [kv.Codec]. Implementations must be safe for concurrent use, must not
// modify or retain b, and must return an error for bytes that they did not write.
type Layer interface {
	Wrap(key string, b []byte) ([]byte, error)
	Unwrap(key string, b []byte) ([]byte, error)
}

// With returns the codec c with layers, which are applied in order to the output of c. If c or a
// layer is nil, the methods of the codec return kv.ErrInvalid.
func With[T any](c kv.Codec[T], l ...Layer) kv.Codec[T] {
	out := layered[T]{codec: c, layers: append([]Layer(nil), l...)}
	if c == nil {
		out.err = layerError(kv.ErrInvalid, "no codec")
	}
	for i, one := range l {
		if one == nil {
			out.err = errors.Join(out.err, layerError(kv.ErrInvalid, fmt.Sprintf("layer %d is nil", i)))
		}
	}
	return out
}

type layered[T any] struct {
	codec  kv.Codec[T]
	layers []Layer
	err    error // why the codec is unusable, or nil
}

// Base returns the codec below all layers. Package kv and the caches compare values by its output,
// because two ciphertexts of one value differ.
func (c layered[T]) Base() kv.Codec[T] {
	if below, ok := c.codec.(interface{ Base() kv.Codec[T] }); ok {
		return below.Base()
	}
	return c.codec
}

// Encode encodes v and wraps the result.
func (c layered[T]) Encode(key string, v T) ([]byte, error) {
	if c.err != nil {
		return nil, c.err
	}
	b, err := c.codec.Encode(key, v)
	for i := 0; err == nil && i < len(c.layers); i++ {
		b, err = c.layers[i].Wrap(key, b)
	}
	return b, err
}

// Decode unwraps b and decodes the result.
func (c layered[T]) Decode(key string, b []byte) (v T, err error) {
	if c.err != nil {
		return v, c.err
	}
	for _, l := range slices.Backward(c.layers) {
		if b, err = l.Unwrap(key, b); err != nil {
			return v, err
		}
	}
	return c.codec.Decode(key, b)
}

// layerError returns an error that matches is. text must not quote the value, because it appears in
// the errors and logs of the caller.
func layerError(is error, text string) error {
	return &errs.CodecError{Text: text, Err: is}
}
