// Package kv provides a namespaced and typed key-value store over etcd. Every error says whether
// the write was applied.
//
//	store, users := client.KV(), kv.NewTyped(client.KV(), "users", kv.JSON[User]())
//
//	rev, err := users.Create(ctx, "42", User{Name: "Ada"}) // kv.ErrExists if the key exists
//	e, err := users.Get(ctx, "42")                         // e.Value is a User
//	rev, err = users.Replace(ctx, "42", u, e.ModRevision)  // kv.ErrConflict if the key has changed
//	e, err = users.Update(ctx, "42", func(u *User) error { u.Visits++; return nil })
//	for e, err := range users.List(ctx) { ... }            // at one revision
//	rev, err = store.Put(ctx, "greeting", []byte("hello"))
//	rev, err = store.Transact(ctx, func(ctx context.Context, tx *kv.Tx) error {
//		a, err := users.In(tx).Get("42") // reads and writes of several keys, all or nothing
//		...
//	})
//
// # Keys
//
// A [Store] and a [Typed] take and return keys relative to their namespace. The namespace "myapp"
// means "myapp/": no key, range, compare or transaction reaches outside it. Any bytes are a key:
// "../x" is a name, not a path. A prefix is "" or ends in "/", unless [WithPartialPrefix] is given,
// so that deleting "users/4" does not delete "users/42". Keys below ".etcdkit/" of a store's
// namespace belong to this package: they appear in no listing, count or range that a transaction
// reads, and cannot be written.
//
// For code that uses a clientv3.KV, [Namespace] restricts one to a namespace, and [Coalesce] makes
// concurrent calls share transactions.
//
// # Guarantees: reads
//
// Reads are linearizable unless their name says otherwise (GetStale, GetAsOf). They are repeated,
// up to a limit, if the connection is lost or etcd has no leader. A listing shows one revision,
// however long it takes, and so do all pages that follow from one first page.
//
// # Guarantees: writes
//
// A write that returns no error was applied, once, at the revision returned. Otherwise:
//
//	the error matches     the write
//	ErrUnknownOutcome     may have been applied, may yet be, or not
//	anything else         was not applied, and will not be
//
// A request is repeated only if it was provably not applied (etcd refused it before proposing it,
// or it never left the process), or if it cannot be applied twice:
//
//	write                        after a lost response
//	Put, Delete, DeletePrefix,   unknown: it may still be on its way
//	Txn, Batch
//	CompareAndSwap, ...Delete    unknown: the value may come back
//	Create, Update that creates  unknown: the key may become absent again
//	Replace, DeleteAt, Update    repeated until etcd says yes or no, since a mod revision never
//	of a key that exists         comes back. Unknown only if another client may have done the same,
//	                             or if the history does not show what happened; see Store.Replace
//	Transact that overwrites or  repeated like Replace; see docs/transactions.md
//	deletes a key it has read
//	other Transact               unknown: it may be applied later
//	any of these, WithOnce       repeated until etcd says yes or no, and then always known
//
// If the context ends before etcd says yes or no, the outcome is unknown.
//
// [WithOnce] makes the transaction write one more key, which only this client uses, below
// ".etcdkit/op/" and on a lease of one minute. The key shows whether the request was applied, and
// keeps it from being applied twice.
//
// If a custom KV, or a client that was not prepared with etcdkit.Harden, repeats writes by itself,
// a write without WithOnce that was applied can be reported as a conflict.
//
// # Slow and frozen members
//
// No attempt is canceled because it is slow. Reads, and the writes that the table calls repeated,
// make a second attempt at another member after 0.25 to 1 s, or a third of their time if that is
// less, and the first response that settles the call counts: a frozen member costs them about a
// second. All other writes have one attempt: at a frozen member they wait for their deadline and
// are then unknown. Second attempts are limited to ten at once and a tenth of all calls, and need a
// second endpoint. Over a client that etcdkit.Open has not made, they may reach the same member.
//
// # What is not guaranteed
//
//   - CompareAndSwap does not notice a value that was changed and changed back.
//   - [Store.Batch] is not atomic.
//   - A key's lease can end at any time after the write.
//   - A store sees the keys of stores with longer namespaces, including their ".etcdkit/" keys.
//     Other clients that change these can make outcomes unknown, but not wrong.
//
// # Errors
//
// Test for [ErrNotFound], [ErrExists], [ErrConflict], [ErrGuard], [ErrDecode] and those shared with
// other packages with errors.Is. [ConflictError] and [BatchError] hold details for errors.As. The
// text names the whole key, and never the value. If a deadline has passed, the error matches
// context.DeadlineExceeded and says why each endpoint could not be reached.
//
// # Cost
//
// Every function documents its RPCs. [WithTimeouts] bounds calls whose context has no deadline.
// Limits of etcd are checked before anything is sent ([Limits]).
package kv
