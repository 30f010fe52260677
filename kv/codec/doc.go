// Package codec adds layers to the codecs of package kv: compression, and encryption with keys that
// can be rotated.
//
//	ring, err := codec.NewKeyRing(
//		codec.Key{ID: "2026-12", Secret: newKey}, // for writes and reads
//		codec.Key{ID: "2025-12", Secret: oldKey}, // for reads
//	)
//	c := codec.With(kv.JSON[User](), codec.Gzip(1024), codec.AESGCM(ring))
//	users := kv.NewTyped(store, "users", c)
//
// The result of [With] is an ordinary codec, for a kv.Typed, a cache or a configuration. Layers are
// applied in the order given when a value is written, and in reverse when it is read. Compress
// before you encrypt.
//
// # Encryption
//
// [AESGCM] encrypts values, not keys, leases or revisions. Each value has a random nonce, and is
// authenticated together with its key below the store's namespace. So a value that was changed,
// cut, or copied to another key is an error ([ErrAuthentication]), never another value. A deletion,
// an older value of the same key, and a value of the same key in another namespace are not noticed:
// use different secrets for different namespaces.
//
// Whoever can read the memory of the process can read the secrets. The state file of a
// configuration holds encrypted values, the memory of a cache decoded ones.
//
// # Rotation
//
// The first key of a [KeyRing] is for writes and reads, the others are for reads. To rotate keys
// without downtime:
//
//  1. Give every process the new key as a further key, for reads.
//  2. Give every process the new key as the first one, and the old one as a further key.
//  3. Write each value again: call users.Update for each key of users.Keys, with a function that
//     changes nothing. The key keeps its lease. With kv.WithSkipEqual nothing would be written.
//  4. Remove the old key.
//
// The example of [AESGCM] shows step 3. For a configuration, use a kv.Typed over the dir of the
// source, with the codec given to config.WithCodec: config.Value.Update writes nothing if its
// function changes nothing.
//
// To encrypt existing data, stop the programs without the layer, which cannot read encrypted
// values. Begin with [WithPlaintextReads], write each value again, and remove the option.
//
// # Errors
//
// Errors match [ErrFormat], [ErrUnknownKey] or [ErrAuthentication], and kv.ErrDecode when they come
// from a read. Their texts name key IDs, and never hold values or secrets.
package codec
