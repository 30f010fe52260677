package codec

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"log/slog"

	"github.com/etcdkit/etcdkit/kv"
)

// maxKeyID is the maximum length of a key ID.
const maxKeyID = 64

// Key is a secret key for [AESGCM]. Packages fmt and slog do not show its secret.
type Key struct {
	// ID identifies the secret in each value that it encrypts. It is 1 to 64 bytes long and must
	// never be reused for another secret.
	ID string
	// Secret is 16, 24 or 32 random bytes, for AES-128, AES-192 or AES-256.
	Secret []byte
}

// Format prints the ID for every verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = fmt.Fprintf(f, "key %q", k.ID) }

// LogValue returns the ID.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.ID) }

// KeyRing holds the keys of [AESGCM]. It is immutable and safe for concurrent use. The zero KeyRing
// is empty and not usable.
type KeyRing struct {
	first string
	keys  map[string]cipher.AEAD // by ID
}

// NewKeyRing returns a ring that encrypts with the first key, and decrypts with that and the
// others. It copies the secrets. If a key is not usable, the error matches kv.ErrInvalid.
func NewKeyRing(first Key, others ...Key) (KeyRing, error) {
	r := KeyRing{first: first.ID, keys: make(map[string]cipher.AEAD, 1+len(others))}
	var all []error
	for _, k := range append([]Key{first}, others...) {
		if err := r.add(k); err != nil {
			all = append(all, fmt.Errorf("codec: key %q: %w: %w", k.ID, kv.ErrInvalid, err))
		}
	}
	if err := errors.Join(all...); err != nil {
		return KeyRing{}, err
	}
	return r, nil
}

func (r KeyRing) add(k Key) error {
	if k.ID == "" || len(k.ID) > maxKeyID {
		return fmt.Errorf("an ID of %d bytes, where 1 to %d are allowed", len(k.ID), maxKeyID)
	}
	if r.keys[k.ID] != nil {
		return errors.New("the ID is used twice")
	}
	block, err := aes.NewCipher(k.Secret)
	if err != nil {
		return fmt.Errorf("a secret of %d bytes, where 16, 24 or 32 are allowed", len(k.Secret))
	}
	r.keys[k.ID], err = cipher.NewGCMWithRandomNonce(block)
	return err
}

// String returns the number of keys and the ID of the first.
func (r KeyRing) String() string {
	return fmt.Sprintf("key ring of %d keys, first %q", len(r.keys), r.first)
}

// Format prints the result of String for every verb.
func (r KeyRing) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(r.String())) }
