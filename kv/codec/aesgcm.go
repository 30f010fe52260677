package codec

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/etcdkit/etcdkit/kv"
)

// An encrypted value consists of gcmHeader, one byte with the length of the key ID, the ID, the
// 12-byte nonce, the ciphertext and the 16-byte tag. The part up to the ID, followed by the key of
// the entry, is authenticated.
const gcmHeader = "\x00ag\x01"

// Option is an option of [AESGCM].
type Option func(*gcmLayer)

// WithPlaintextReads accepts values that are not encrypted, such as those written before the layer
// was added. Default: reading them returns [ErrFormat]. Remove the option once all values are
// encrypted: until then, anyone who can write to etcd can store plaintext that is accepted.
func WithPlaintextReads() Option { return func(l *gcmLayer) { l.plaintext = true } }

// AESGCM encrypts values with AES-GCM and the first key of the ring, and decrypts them with any of
// its keys. A value grows by 33 bytes plus the length of the key ID. The package documentation
// describes what AESGCM protects and how to rotate keys.
//
// Nonces are random, so one key must not encrypt more than 2³² values.
func AESGCM(r KeyRing, o ...Option) Layer {
	l := &gcmLayer{ring: r}
	for _, opt := range o {
		if opt != nil {
			opt(l)
		}
	}
	return l
}

type gcmLayer struct {
	ring      KeyRing
	plaintext bool
}

// Wrap encrypts b.
func (l *gcmLayer) Wrap(key string, b []byte) ([]byte, error) {
	if len(l.ring.keys) == 0 {
		return nil, layerError(kv.ErrInvalid, "aes-gcm: the key ring is empty")
	}
	id := l.ring.first
	aead := l.ring.keys[id]
	out := make([]byte, 0, len(gcmHeader)+1+len(id)+len(b)+aead.Overhead())
	out = append(out, gcmHeader...)
	out = append(out, byte(len(id))) //nolint:gosec // at most maxKeyID
	out = append(out, id...)
	return aead.Seal(out, nil, b, authenticated(out, key)), nil //nolint:gosec // generates a random nonce
}

// authenticated returns the additional data: the header of a value and the key of its entry.
func authenticated(header []byte, key string) []byte {
	return append(bytes.Clone(header), key...)
}

// Unwrap decrypts b.
func (l *gcmLayer) Unwrap(key string, b []byte) ([]byte, error) {
	if len(l.ring.keys) == 0 {
		return nil, layerError(kv.ErrInvalid, "aes-gcm: the key ring is empty")
	}
	if !bytes.HasPrefix(b, []byte(gcmHeader)) {
		cut := len(b) > 0 && bytes.HasPrefix([]byte(gcmHeader), b)
		if l.plaintext && !cut {
			return b, nil
		}
		return nil, layerError(ErrFormat, "aes-gcm: the value is not encrypted")
	}
	at := len(gcmHeader)
	if len(b) <= at || len(b) < at+1+int(b[at]) {
		return nil, layerError(ErrFormat, "aes-gcm: the value is cut short")
	}
	header, sealed := b[:at+1+int(b[at])], b[at+1+int(b[at]):]
	id := string(header[at+1:])
	aead, ok := l.ring.keys[id]
	if !ok {
		return nil, layerError(ErrUnknownKey, "aes-gcm: the value is encrypted with key "+strconv.Quote(id))
	}
	if len(sealed) < aead.Overhead() {
		return nil, layerError(ErrFormat, "aes-gcm: the value is cut short")
	}
	out, err := aead.Open(nil, nil, sealed, authenticated(header, key))
	if err != nil {
		return nil, layerError(ErrAuthentication, fmt.Sprintf("aes-gcm: the value was changed, or encrypted for another entry, or with another secret than that of key %q", id))
	}
	return out, nil
}
