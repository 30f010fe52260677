// Package config is configuration that lives in etcd, is always there, and is never half applied.
//
//	src, err := config.Open(ctx, client, "config", config.WithStateFile("/var/lib/shop/config.json"))
//	defer src.Close()
//
//	rate, err := config.Bind(src, "http/rate-limit", config.WithDefault(100),
//		config.WithValidate(func(n int) error {
//			if n < 1 {
//				return errors.New("must be at least 1")
//			}
//			return nil
//		}))
//	...
//	limiter.Wait(rate.Load()) // for each request: a nanosecond or two
//
// [Bind] follows one key, [BindDir] fills a struct from the keys below a dir. Both decode when something changes, not
// when it is read. [Get] and [GetOr] decode one key each time. [Set], [Value.Set] and [Value.Update] write.
//
// # Layers
//
// Each key is looked for in these places, and the first that has it is in force:
//
//	environment     WithEnvironment    read once, by Open
//	etcd            the dir            followed; until etcd has answered, the state file (WithStateFile) stands in
//	fallback file   WithFallbackFile   read once, by Open
//	default         WithDefault, default tags, the argument of GetOr
//
// [Source.Provenance] and [Value.Provenance] say for a key where its value comes from, [Source.Status] what stands in for
// etcd and how old that is. To delete a key from etcd is to bring back what lies below it: the fallback file's value, or
// the default.
//
// # Encodings
//
// A value is text that people can put with etcdctl, where the type has such a form, and else a document:
//
//	type                                          in etcd                 remarks
//	string, []byte                                the bytes as they are
//	bool                                          true, false             reads all that strconv.ParseBool does
//	int..., uint...                               42                      decimal; what does not fit is a bad value
//	float...                                      0.25                    NaN and infinities are bad values
//	time.Duration                                 1m30s                   reads what time.ParseDuration does
//	a type with MarshalText and UnmarshalText     its text                time.Time, netip.Addr, *big.Int, ...
//	a type with UnmarshalText alone               its text                can be read, not written
//	a pointer                                     what it points to       in a struct, nil is an absent key
//	anything else                                 JSON                    YAML where the key ends in ".yaml" or ".yml"
//
// A list in a variable of the environment may be written without brackets, as a,b,c. An empty document and null are no
// values: a slice or map that is nil is written as [] or {}.
//
// Space and newlines around text other than a string's or a []byte's are ignored. Named types are stored as their
// underlying ones. Fields of documents go by their json tags, YAML's too; a time.Duration in one is a number of
// nanoseconds, as encoding/json has it. [WithCodec] makes it something else, such as [JSON] for a string, or YAML for a
// key with another ending.
//
// A type whose text hides its value, such as etcdkit.Secret, is stored as its method Reveal() string returns it. Its
// value cannot be written as part of a document, nor without that method: Set returns [ErrInvalid] before anything is
// sent. It can be read in any case.
//
// # Consistency
//
//   - The source shows what etcd had at one revision, and goes from revision to revision. It is sequentially consistent:
//     reads may lag behind etcd, by milliseconds while the watch is well, by [Status.Age] at the most; they never go
//     back. (A cluster that was wiped or restored from a backup begins a new history; the source follows it.)
//   - A transaction is one change. [Source.All] is of one revision, and so is each struct that Load of a BindDir
//     returns, whatever it was changed by. Two calls of Get, or Load of two values, may see two revisions: what belongs
//     together is a struct.
//   - A change reaches what Get and All read first, then all bound values, then the functions given to Follow. A function
//     that calls Load finds what it was told, or something later, in every value that the transaction changed.
//   - A write is seen by its own process when it returns: [Set], [Value.Set], [Value.Update], [Source.Delete] and
//     [Source.Rollback] wait for that, unless the watch is down.
//   - Without etcd, reads go on for as long as it takes. Nothing becomes unreadable for being old; who needs a bound
//     asks for Age.
//
// # Bad input
//
// None of the following ends a watch or stops a later update, and what is bad never changes what Load returns:
//
//	invalid JSON or YAML, wrong type,   *BadValueError that matches kv.ErrDecode; never quotes the value
//	null, an empty document, YAML
//	aliases that expand to megabytes
//	validation refuses it               *BadValueError that matches ErrValidation and the function's own error
//	unknown field or key, field that    ignored (a YAML field set twice is not); with WithStrict, as a wrong type
//	is set twice
//	larger than WithMaxValueBytes       *BadValueError that matches kv.ErrTooLarge; Set refuses what etcd would before it is sent
//	required, or without a default,     *BadValueError that matches kv.ErrNotFound
//	and deleted
//	deleted, with a default             no error: the default is loaded, and Follow is told, with Change.New == nil
//	decoder or validation panics        as an error of it, with a *PanicError
//	a function given to Follow panics   counted and logged; the next change comes
//	... or blocks                       what it misses is folded into one change for each key; nobody else waits for it
//	a key that is no name (not UTF-8,   ignored and counted: it is no configuration
//	control characters, empty segments)
//
// A bad value shows in [Value.Err], in the error handler and in [Stats], until a good one comes. The log has a record when
// a value turns bad, and one when it is good again. Meanwhile the last good one is loaded, also by a process that starts
// meanwhile, if it has a state file: that keeps the last good state of what is bound. A process that starts without one
// fails, unless the program has named a default or a fallback file.
//
// # Not guaranteed
//
// That each value that was ever put is told: where a function is slow, or history was lost in an outage, changes fold,
// and the last one is told. That a process starts without etcd and without a file. That nobody reads the state file,
// which holds secrets if etcd does: its mode is all that protects it. That a key that is rolled back fits what was
// changed together with it. That etcd holds good values: validation is this process's, and other programs write what they
// like.
//
// # Errors
//
// Conditions are matched with errors.Is, a bad value's key, revision and origin are found with errors.As in
// [*BadValueError]; an error about a dir holds one for each bad key. The text is `config: bind "http/rate-limit": bad value at revision 7: value cannot be decoded: not a
// whole number that fits int`.
//
// # Lifetime and cost
//
// A [Source] holds everything below its dir in memory, a few goroutines and a share of the client's watch, until
// [Source.Close]. Values live as long as their source. Functions given to Follow have a goroutine each.
//
//	Open                    a streamed list, and a small read where that takes longer than half a second
//	a change in etcd        a message on the client's stream; one decode for each bound value that it belongs to
//	Load                    an atomic load and a copy of the struct, no allocation
//	Get, GetOr              a look-up and a decode
//	All, Keys               a copy of the keys
//	Set, Delete             1 RPC; BindDir's Set 1 transaction of at most 128 keys, those that have changed
//	Update                  2 RPCs, and 2 for each conflict
//	Rollback, History       3 RPCs; 1 for each entry
package config
