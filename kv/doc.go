// Package kv is a key-value store over etcd: namespaced, typed if you like, and exact about what became of a write.
//
//	store := kv.New(cli, kv.WithNamespace("myapp"))
//	users := kv.NewTyped(store, "users", kv.JSON[User]())
//
//	rev, err := users.Create(ctx, "42", User{Name: "Ada"})   // kv.ErrExists if it is there
//	e, err := users.Get(ctx, "42")                           // e.Value is a User, e.ModRevision its state
//	rev, err = users.Replace(ctx, "42", u, e.ModRevision)    // kv.ErrConflict if it has changed
//	e, err = users.Update(ctx, "42", func(u *User) error { u.Visits++; return nil })
//	for e, err := range users.List(ctx) { ... }              // all of one revision
//
// # Keys
//
// A [Store] and a [Typed] give and take keys relative to their namespace. The namespace is a wall: "myapp" means
// "myapp/", it never sees "myapp2/x", and no key, range, compare or transaction reaches out of it. Any bytes are a key
// and mean themselves: "../x" is a name, not a path. A prefix ends in "/" or is "", unless WithPartialPrefix says
// otherwise, so that deleting "users/4" does not delete "users/42". Keys below ".etcdkit/" of a store's namespace belong
// to this package: they appear in no listing or count and in no range that a transaction reads, and are not written.
//
// [Namespace] is the wall alone, as a decorator for a clientv3.KV. [Coalesce] is another one: gets, puts and deletes that many
// goroutines make at once share transactions.
//
// # Lifetime
//
// Stores and typed handles hold no goroutine and need no closing. New sends nothing. A [Store] is safe for concurrent
// use. It works over any clientv3.Client; a KV of your own in the client's KV field is used as it is.
//
// # Guarantees: reads
//
// Get, Exists, Count, List and the others are linearizable unless their name says otherwise (GetStale, GetAsOf). They
// are sent again, within bounds, when the connection is lost or etcd has no leader. A read that is slow is waited for, as
// long as its context lives, and is made a second time at another member meanwhile (see Slow and frozen members). A listing, or all pages that follow from one
// first page, are of one revision, however long they take and whatever is written meanwhile.
//
// # Guarantees: writes
//
// Every write that returns no error has been applied, once, at the revision returned. What an error says:
//
//	the error matches            the write
//	ErrUnknownOutcome            may have been applied, may yet be, or not
//	anything else                was not applied, and will not be
//
// A request is sent again only when it was provably not applied (etcd refused it before proposing it, or it never left
// the process) or when a second application is impossible. That is decided by what the write is conditional on:
//
//	write                        after a lost answer it is
//	Put, Delete, DeletePrefix,   reported unknown: it may still be on its way
//	Txn, Batch
//	CompareAndSwap, ...Delete    reported unknown: the value may come back
//	Create, Update that creates  reported unknown: the key may become absent again
//	Replace, DeleteAt, Update    repeated until etcd says yes or no: a mod revision never comes back. After a "no",
//	                             the change that came right after tells: another value is a conflict; the same value
//	                             (for DeleteAt: a key that was deleted) is unknown, since somebody may have written it
//	any of these, WithOnce       repeated until etcd says yes or no, and then known in every case
//
// Waiting for a definite answer ends with the context; then the outcome is unknown after all.
//
// # Slow and frozen members
//
// No attempt is given up because it is slow. A call that can be made twice without harm makes a second attempt at another
// member after 0.25 to 1 s, or a third of its time if that is less; the first answer that settles it counts. These are all
// reads, Replace, DeleteAt and Update of a key that exists, and any write WithOnce. A member that is frozen therefore costs
// them about a second. All other writes have one attempt: at a frozen member they wait for their deadline, and are then
// unknown. Second attempts are bounded to ten at once and a tenth of all calls. With a single endpoint there are none, nor
// with MaxAttempts 1. A client that etcdkit.Open has not made sends them over its own connection, whose balancer usually
// picks another member.
//
// All this holds over client/v3's own KV. A KV of your own in the client's KV field is used as it is: if it, or client/v3
// below it on a client that was not prepared with etcdkit.Harden, sends a write twice by itself, a write without WithOnce
// that was applied can be reported as a conflict.
//
// [WithOnce] adds an operation slot to the transaction: a key that only this client writes, in which it puts the
// operation's id, guarded by the slot's mod revision. Whichever of several identical requests comes first changes the
// slot, so the others cannot take effect; and a repeat reads the slot and finds whether one did. A repeat that is refused
// for another reason marks the slot in the same transaction, so that a request that is still on its way can do nothing
// any more. Slots lie below ".etcdkit/op/", on a lease of one minute.
//
// # Not guaranteed
//
// CompareAndSwap compares values, and cannot see that a value was changed and changed back. Versions are never compared:
// they start anew when a key is created again. [Store.Batch] is not atomic. A key's lease can end at any time after a
// write. A store sees the keys of stores with longer namespaces, their ".etcdkit/" keys included; what anybody else does to
// these can make outcomes unknown, but not wrong.
//
// # Errors
//
// Conditions are matched with errors.Is, facts with errors.As: [ErrNotFound], [ErrExists], [ErrConflict] with
// [ConflictError], [ErrGuard], [ErrDecode], [BatchError], and those shared with the other packages. The text names the whole
// key, namespace included: `kv: put "myapp/users/42": reason`. An error for want of time matches context.DeadlineExceeded and names the endpoints and
// why they could not be reached. Values never appear in errors or logs.
//
// # Time and cost
//
// A call whose context has no deadline is given 5 s if it reads and 10 s if it writes ([WithTimeouts]); in a listing,
// that bounds the wait for each chunk, and never the body of the loop. Every function says how many RPCs it costs.
// Limits of etcd are checked before anything is sent ([Limits]).
package kv
