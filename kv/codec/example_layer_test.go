package codec_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/kv/codec"
)

// checksum is a layer that detects damaged values.
type checksum struct{}

func (checksum) Wrap(_ string, b []byte) ([]byte, error) {
	return binary.BigEndian.AppendUint32(slices.Clone(b), crc32.ChecksumIEEE(b)), nil
}

func (checksum) Unwrap(_ string, b []byte) ([]byte, error) {
	n := len(b) - 4
	if n < 0 || binary.BigEndian.Uint32(b[n:]) != crc32.ChecksumIEEE(b[:n]) {
		return nil, errors.New("wrong checksum")
	}
	return b[:n], nil
}

// A custom layer has two methods.
func ExampleLayer() {
	c := codec.With(kv.String(), checksum{})
	b, err := c.Encode("note", "buy milk")
	must(err)
	note, err := c.Decode("note", b)
	fmt.Println(note, err)
	b[0] = 'B'
	_, err = c.Decode("note", b)
	fmt.Println(err)
	// Output:
	// buy milk <nil>
	// wrong checksum
}
