// Package config keeps typed configuration from etcd in memory and applies each change as a whole.
// An invalid value never replaces a valid one.
//
//	src, err := config.Open(ctx, client, "config", config.WithStateFile("/var/lib/shop.json"))
//	defer src.Close()
//
//	rate, err := config.Bind(src, "http/rate-limit", config.WithDefault(100),
//		config.WithValidate(atLeastOne)) // func(n int) error
//	limiter.Wait(rate.Load()) // for each request: a nanosecond or two
//
// [Bind] follows one key, and [BindDir] fills a struct from the keys below a dir. [Get] and [GetOr]
// decode a key each time. [Set], [Value.Set] and [Value.Update] write.
//
// # Layers
//
// The first of these that has a key is in force:
//
//	environment     WithEnvironment   read once, by Open
//	etcd            the dir           followed; until etcd answers, the file of WithStateFile
//	fallback file   WithFallbackFile  read once, by Open
//	default         WithDefault, default tags, the argument of GetOr
//
// Deleting a key from etcd restores the value of the layer below. [Source.Provenance] and
// [Value.Provenance] return the layer of a value, [Source.Status] what stands in for etcd.
//
// # Encodings
//
//	type                                       in etcd
//	string, []byte                             the bytes as they are
//	bool                                       true, false; reads all that strconv.ParseBool reads
//	int..., uint...                            42; decimal, and a number that does not fit is invalid
//	float...                                   0.25; NaN and infinities are invalid
//	time.Duration                              1m30s; reads what time.ParseDuration reads
//	type with MarshalText and UnmarshalText    its text: time.Time, netip.Addr, *big.Int
//	type with UnmarshalText only               its text; cannot be written
//	pointer                                    what it points to; in a struct, nil is an absent key
//	anything else                              JSON, or YAML if the key ends in ".yaml" or ".yml"
//
// Space around text is ignored, except for a string or []byte. A named type is stored as its
// underlying type. Fields of documents go by their json tags, also in YAML; a time.Duration in a
// document is a number of nanoseconds. An empty document and null are not values: a nil slice or
// map is written as [] or {}. A type that hides its value, such as etcdkit.Secret, is stored as its
// method Reveal returns it, and cannot be written within a document or without that method: Set
// then returns [ErrInvalid]. [WithCodec] replaces the encoding.
//
// # Guarantees
//
//   - The source shows one revision at a time and never goes back, unless the cluster was restored.
//     Reads lag milliseconds behind etcd while the watch is live, and never more than [Status.Age].
//     They work without etcd for any length of time.
//   - A transaction is one change. [Source.All] and the struct of a BindDir are of one revision.
//     Two calls of Get or Load may see two revisions: put settings that belong together into one
//     struct.
//   - Get and All see a change first, then all bound values, then functions given to Follow.
//   - A write is visible to its own process when it returns, unless the watch is down.
//
// # Invalid values
//
// An invalid value does not end the watch, prevent a later update or change what Load returns. Its
// error is a [*BadValueError], which matches:
//
//	does not decode                kv.ErrDecode
//	validation fails               ErrValidation, and the error of the function
//	decoder or validation panics   the same, and a *PanicError
//	larger than WithMaxValueBytes  kv.ErrTooLarge; Set refuses to send it
//	deleted, without a default     kv.ErrNotFound
//
// [Bind] says where it is reported, and what a process uses that starts meanwhile. It is logged
// when a value becomes invalid and when it is valid again. Other cases:
//
//   - If a key with a default is deleted, Load returns the default, and Change.New is nil.
//   - Unknown and repeated fields and keys are ignored; with [WithStrict] the value does not
//     decode. A YAML field that is set twice never decodes.
//   - A key that is not a name (not UTF-8, control characters, empty segments) is ignored and
//     counted.
//
// # What is not guaranteed
//
//   - That every value is delivered: a slow function, or lost history, skips all but the last.
//   - That the state file stays secret: its mode is its only protection.
//   - That a key that is rolled back fits others that were changed with it.
//   - That etcd holds valid values: only this package validates, and others can write.
//
// # Errors
//
// A [*BadValueError] holds key, revision and origin of an invalid value for errors.As; an error
// about a dir holds one for each such key. No text quotes a value.
//
// # Lifetime and cost
//
// A [Source] holds everything below its dir in memory, some goroutines and a share of the client's
// watch until [Source.Close]. The functions document their RPCs. Open costs a small read more if it
// takes longer than half a second. Set of a struct is one transaction of the changed keys, at most
// 128. A change in etcd costs a message on the client's stream, and a decode of each bound value
// with that key.
package config
