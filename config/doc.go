// Package config keeps typed configuration from etcd in memory and applies each change as a whole.
// An invalid value never replaces a valid one.
//
//	src, err := config.Open(ctx, client, "config", config.WithStateFile("/var/lib/shop/config.json"))
//	defer src.Close()
//
//	rate, err := config.Bind(src, "http/rate-limit", config.WithDefault(100),
//		config.WithValidate(atLeastOne)) // func(n int) error
//	limiter.Wait(rate.Load()) // for each request: a nanosecond or two
//
// [Bind] follows one key; [BindDir] fills a struct from the keys below a dir. Both decode when a
// value changes; [Get] and [GetOr] decode each time. [Set], [Value.Set] and [Value.Update] write.
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
//     They work without etcd for as long as it takes.
//   - A transaction is one change. [Source.All] and the struct of a BindDir are of one revision.
//     Two calls of Get or Load may see two: put settings that belong together into one struct.
//   - Get and All see a change first, then all bound values, then functions given to Follow.
//   - A write is visible to its own process when it returns, unless the watch is down.
//
// # Invalid values
//
// None of these ends the watch, prevents a later update or changes what Load returns. Neither does
// a function given to Follow that blocks or panics.
//
//	does not decode                       *BadValueError, which matches kv.ErrDecode
//	validation fails                      *BadValueError, which matches ErrValidation and its error
//	unknown or repeated field or key      ignored; with WithStrict it does not decode; a YAML field
//	                                      that is set twice never does
//	larger than WithMaxValueBytes         *BadValueError, which matches kv.ErrTooLarge; Set refuses
//	                                      to send it
//	deleted, without a default            *BadValueError, which matches kv.ErrNotFound
//	deleted, with a default               no error; the default, and Change.New is nil
//	decoder or validation panics          as its error, with a *PanicError
//	key that is not a name (not UTF-8,    ignored and counted
//	control characters, empty segments)
//
// The error of an invalid value is in [Value.Err], the error handler and [Stats] until a valid one
// comes. It is logged when the value becomes invalid and when it is valid again. A process that
// starts meanwhile uses the last valid state of its state file, the fallback file or the default,
// and otherwise fails to start.
//
// # What is not guaranteed
//
//   - That every value is delivered: a slow function, or lost history, skips all but the last.
//   - That a process starts without etcd and without a file, unless [WithStartOnDefaults] is given.
//   - That the state file stays secret: its mode is its only protection.
//   - That a key that is rolled back fits others that were changed with it.
//   - That etcd holds valid values: only this package validates, and others can write.
//
// # Errors
//
// Conditions are matched with errors.Is. [*BadValueError] holds key, revision and origin of an
// invalid value for errors.As; an error about a dir holds one for each such key. No text quotes a
// value.
//
// # Lifetime and cost
//
// A [Source] holds everything below its dir in memory, some goroutines and a share of the client's
// watch until [Source.Close].
//
//	Open               a streamed list, and a small read if that takes longer than half a second
//	a change in etcd   a message on the client's stream, and a decode of each bound value with it
//	Load               an atomic load and a copy of the struct, no allocation
//	Set, Delete        1 RPC; BindDir's Set 1 transaction of the changed keys, at most 128
//	Update             2 RPCs, and 2 for each conflict
//	Rollback           3 RPCs
package config
