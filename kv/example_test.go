package kv_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/kv"
)

// Put, Get and Delete one key.
func Example() {
	ctx, cli, store := connect("basics")
	defer cli.Close()

	_, err := store.Put(ctx, "users/42", []byte("Ada"))
	must(err)
	e, err := store.Get(ctx, "users/42")
	must(err)
	fmt.Printf("%s is %s, version %d\n", e.Key, e.Value, e.Version)

	_, err = store.Delete(ctx, "users/42")
	must(err)
	_, err = store.Get(ctx, "users/42")
	fmt.Println(err)
	fmt.Println(errors.Is(err, kv.ErrNotFound))
	// Output:
	// users/42 is Ada, version 1
	// kv: get "example/basics/users/42": key not found
	// true
}

// Create succeeds only if the key does not exist.
func ExampleStore_Create() {
	ctx, cli, store := connect("create")
	defer cli.Close()

	_, err := store.Create(ctx, "leader", []byte("one"))
	fmt.Println("one:", err)
	_, err = store.Create(ctx, "leader", []byte("two"))
	fmt.Println("two:", err)
	fmt.Println(errors.Is(err, kv.ErrExists))
	// Output:
	// one: <nil>
	// two: kv: create "example/create/leader": key exists
	// true
}

// Replace writes only if the key has not changed since it was read, so no other change is lost.
func ExampleStore_Replace() {
	ctx, cli, store := connect("replace")
	defer cli.Close()

	_, err := store.Put(ctx, "price", []byte("10"))
	must(err)
	read, err := store.Get(ctx, "price")
	must(err)

	// Another client writes first.
	theirs, err := store.Put(ctx, "price", []byte("12"))
	must(err)

	_, err = store.Replace(ctx, "price", []byte("11"), read.ModRevision)
	var conflict *kv.ConflictError
	fmt.Println(errors.As(err, &conflict), errors.Is(err, kv.ErrConflict))
	fmt.Println("found what they wrote:", conflict.Have == theirs)
	// Output:
	// true true
	// found what they wrote: true
}

// CompareAndSwap writes only if the key has the expected value.
func ExampleStore_CompareAndSwap() {
	ctx, cli, store := connect("cas")
	defer cli.Close()

	_, err := store.Put(ctx, "state", []byte("idle"))
	must(err)
	_, err = store.CompareAndSwap(ctx, "state", []byte("idle"), []byte("busy"))
	fmt.Println(err)
	_, err = store.CompareAndSwap(ctx, "state", []byte("idle"), []byte("busy"))
	fmt.Println(errors.Is(err, kv.ErrConflict))
	// Output:
	// <nil>
	// true
}

// Update counts visits. No concurrent update is lost.
func ExampleStore_Update() {
	ctx, cli, store := connect("update")
	defer cli.Close()

	for range 3 {
		_, err := store.Update(ctx, "visits", func(cur kv.Entry[[]byte]) ([]byte, error) {
			n := 0
			if cur.ModRevision != 0 { // the key exists
				var err error
				if n, err = strconv.Atoi(string(cur.Value)); err != nil {
					return nil, err
				}
			}
			return strconv.AppendInt(nil, int64(n)+1, 10), nil
		}, kv.WithUpsert())
		must(err)
	}
	e, err := store.Get(ctx, "visits")
	must(err)
	fmt.Printf("%s\n", e.Value)
	// Output: 3
}

// etcd deletes the key after ten minutes.
func ExampleWithTTL() {
	ctx, cli, store := connect("ttl")
	defer cli.Close()

	_, err := store.Put(ctx, "token", []byte("abc"), kv.WithTTL(10*time.Minute))
	must(err)
	e, err := store.Get(ctx, "token")
	must(err)
	lease, err := cli.TimeToLive(ctx, e.Lease)
	must(err)
	granted := time.Duration(lease.GrantedTTL) * time.Second
	fmt.Println("lives for 10 minutes, and at most half a minute longer:", granted >= 10*time.Minute, granted <= 10*time.Minute+30*time.Second)
	// Output: lives for 10 minutes, and at most half a minute longer: true true
}

// The outcome of a write with WithOnce is known even if the response is lost. The keys that it uses
// appear in no listing or count.
func ExampleWithOnce() {
	ctx, cli, store := connect("once")
	defer cli.Close()

	_, err := store.Create(ctx, "orders/1", []byte("paid"), kv.WithOnce())
	must(err)
	n, err := store.Count(ctx, "")
	must(err)
	fmt.Println(n, "key")
	// Output: 1 key
}

// A write with a guard is refused once its owner has lost what the guard stands for.
func ExampleNewGuard() {
	ctx, cli, store := connect("guard")
	defer cli.Close()
	errNotOnCall := errors.New("no longer on call")

	// The person on call has created this key. A guard has absolute keys, and works from any
	// namespace.
	rev, err := store.Put(ctx, "on-call", []byte("Ada"))
	must(err)
	onCall := kv.NewGuard(errNotOnCall, clientv3.Compare(clientv3.CreateRevision("example/guard/on-call"), "=", rev))

	_, err = store.Put(ctx, "alarm", []byte("acknowledged"), kv.WithGuard(onCall))
	fmt.Println(err)

	_, err = store.Delete(ctx, "on-call")
	must(err)
	_, err = store.Put(ctx, "alarm", []byte("ignored"), kv.WithGuard(onCall))
	fmt.Println(err)
	fmt.Println(errors.Is(err, kv.ErrGuard), errors.Is(err, errNotOnCall))
	// Output:
	// <nil>
	// kv: put "example/guard/alarm": guard does not hold: no longer on call
	// true true
}

// A Typed stores values of one type.
func ExampleNewTyped() {
	ctx, cli, store := connect("typed")
	defer cli.Close()

	type User struct {
		Name   string
		Visits int
	}
	users := kv.NewTyped(store, "users", kv.JSON[User]())

	_, err := users.Create(ctx, "42", User{Name: "Ada"})
	must(err)
	e, err := users.Update(ctx, "42", func(u *User) error {
		u.Visits++
		return nil
	})
	must(err)
	fmt.Printf("%s: %+v\n", e.Key, e.Value)

	raw, err := store.Get(ctx, "users/42")
	must(err)
	fmt.Printf("%s\n", raw.Value)
	// Output:
	// 42: {Name:Ada Visits:1}
	// {"Name":"Ada","Visits":1}
}

// WithBadEntry skips values that cannot be decoded.
func ExampleWithBadEntry() {
	ctx, cli, store := connect("bad-entry")
	defer cli.Close()

	for key, value := range map[string]string{"a": "1", "b": "what?", "c": "3"} {
		_, err := store.Put(ctx, "numbers/"+key, []byte(value))
		must(err)
	}
	numbers := kv.NewTyped(store, "numbers", kv.JSON[int](), kv.WithBadEntry(func(key string, _ int64, err error) error {
		fmt.Println(key, "is skipped:", errors.Is(err, kv.ErrDecode))
		return nil
	}))
	p, err := numbers.Page(ctx, 10, "")
	must(err)
	for _, e := range p.Entries {
		fmt.Println(e.Key, e.Value)
	}
	// Output:
	// b is skipped: true
	// a 1
	// c 3
}

// Namespace restricts a KV of client/v3 to a prefix.
func ExampleNamespace() {
	ctx, cli, _ := connect("namespace")
	defer cli.Close()

	app := kv.Namespace(cli.KV, "example/namespace/app")
	_, err := app.Put(ctx, "color", "blue")
	must(err)

	inside, err := app.Get(ctx, "", clientv3.WithPrefix())
	must(err)
	outside, err := cli.Get(ctx, "example/namespace/", clientv3.WithPrefix())
	must(err)
	fmt.Printf("%s\n%s\n", inside.Kvs[0].Key, outside.Kvs[0].Key)
	// Output:
	// color
	// example/namespace/app/color
}

// A transaction writes two accounts if the first has not changed.
func ExampleStore_Txn() {
	ctx, cli, store := connect("txn")
	defer cli.Close()

	rev, err := store.Put(ctx, "accounts/ada", []byte("100"))
	must(err)
	r, err := store.Txn(ctx).
		// Not the value: it can change and change back.
		If(clientv3.Compare(clientv3.ModRevision("accounts/ada"), "=", rev)).
		Then(clientv3.OpPut("accounts/ada", "60"), clientv3.OpPut("accounts/bob", "40")).
		Else(clientv3.OpGet("accounts/ada")).
		Commit()
	must(err)
	fmt.Println("moved:", r.Succeeded)

	e, err := store.Get(ctx, "accounts/bob")
	must(err)
	fmt.Printf("%s at the revision of the transaction: %v\n", e.Value, e.ModRevision == r.Header.Revision)
	// Output:
	// moved: true
	// 40 at the revision of the transaction: true
}

// Batch applies any number of operations, in transactions as large as etcd allows. A batch that
// failed can be resumed.
func ExampleStore_Batch() {
	ctx, cli, store := connect("batch")
	defer cli.Close()

	var ops []kv.Op
	for i := range 1000 {
		ops = append(ops, kv.OpPut(fmt.Sprintf("items/%04d", i), []byte("x")))
	}
	for len(ops) > 0 {
		_, err := store.Batch(ctx, ops...)
		var stopped *kv.BatchError
		if !errors.As(err, &stopped) {
			must(err)
			break
		}
		if errors.Is(err, kv.ErrInvalid) {
			log.Print(err) // it would fail again
			break
		}
		ops = ops[stopped.Done:]
	}
	n, err := store.Count(ctx, "items/")
	must(err)
	fmt.Println(n)
	// Output: 1000
}

// All pages show one revision, whatever is written between them.
func ExampleStore_Page() {
	ctx, cli, store := connect("page")
	defer cli.Close()

	for _, name := range []string{"ada", "bob", "eve"} {
		_, err := store.Put(ctx, "users/"+name, nil)
		must(err)
	}
	cursor := kv.Cursor("")
	for {
		p, err := store.Page(ctx, "users/", 2, cursor)
		must(err)
		for _, e := range p.Entries {
			fmt.Print(e.Key, " ")
		}
		fmt.Println("of", p.Total)
		_, err = store.Delete(ctx, "users/eve") // too late for this reader
		must(err)
		if cursor = p.Cursor; cursor == "" {
			break
		}
	}
	// Output:
	// users/ada users/bob of 3
	// users/eve of 3
}

// List yields the entries below a prefix, here those after one key.
func ExampleStore_List() {
	ctx, cli, store := connect("list")
	defer cli.Close()

	for name, age := range map[string]string{"ada": "36", "bob": "25", "eve": "41"} {
		_, err := store.Put(ctx, "users/"+name, []byte(age))
		must(err)
	}
	for e, err := range store.List(ctx, "users/", kv.WithAfter("users/ada")) {
		must(err)
		fmt.Printf("%s %s\n", e.Key, e.Value)
	}
	// Output:
	// users/bob 25
	// users/eve 41
}

// A checkpoint stores how far a program has processed the changes.
func ExampleCheckpoint() {
	ctx, cli, store := connect("checkpoint")
	defer cli.Close()

	progress := kv.NewCheckpoint(store, "progress/indexer")
	rev, err := progress.Load(ctx)
	must(err)
	fmt.Println("start after", rev)
	must(progress.Save(ctx, 4711))
	rev, err = progress.Load(ctx)
	must(err)
	fmt.Println("continue after", rev)
	// Output:
	// start after 0
	// continue after 4711
}

// A prefix must end in a slash, so that "users/4" does not also delete "users/42".
func ExampleStore_DeletePrefix() {
	ctx, cli, store := connect("delete-prefix")
	defer cli.Close()

	for _, key := range []string{"users/4/name", "users/4/mail", "users/42/name"} {
		_, err := store.Put(ctx, key, nil)
		must(err)
	}
	_, _, err := store.DeletePrefix(ctx, "users/4")
	fmt.Println(errors.Is(err, kv.ErrInvalid), "the prefix does not end in a slash")
	n, _, err := store.DeletePrefix(ctx, "users/4/")
	fmt.Println(n, err)
	// Output:
	// true the prefix does not end in a slash
	// 2 <nil>
}

// A transfer between two accounts is one transaction. WithOnce makes its outcome known even if a
// response is lost.
func ExampleStore_Transact() {
	ctx, cli, store := connect("transact")
	defer cli.Close()
	type Account struct{ Balance int }
	accounts := kv.NewTyped(store, "accounts", kv.JSON[Account]())
	_, err := store.Batch(ctx, accounts.OpPut("ada", Account{100}), accounts.OpPut("bob", Account{0}))
	must(err)

	errFunds := errors.New("insufficient funds")
	transfer := func(from, to string, amount int) error {
		_, err := store.Transact(ctx, func(_ context.Context, tx *kv.Tx) error {
			both, err := accounts.In(tx).GetMany(from, to)
			if err != nil {
				return err
			}
			a, b := both[from].Value, both[to].Value
			if a.Balance < amount {
				return errFunds // nothing is written
			}
			a.Balance, b.Balance = a.Balance-amount, b.Balance+amount
			return errors.Join(accounts.In(tx).Put(from, a), accounts.In(tx).Put(to, b))
		}, kv.WithOnce())
		return err
	}
	fmt.Println(transfer("ada", "bob", 30))
	fmt.Println(transfer("ada", "bob", 100))
	for e, err := range accounts.List(ctx) {
		must(err)
		fmt.Println(e.Key, e.Value.Balance)
	}
	// Output:
	// <nil>
	// insufficient funds
	// ada 70
	// bob 30
}

// A transaction conflicts with any change of what it has listed, so the last seat cannot be taken
// twice.
func ExampleTx_List() {
	ctx, cli, store := connect("seats")
	defer cli.Close()
	const seats = 2
	book := func(who string) (free bool) {
		_, err := store.Transact(ctx, func(_ context.Context, tx *kv.Tx) error {
			taken := 0
			for _, err := range tx.List("seats/") {
				if err != nil {
					return err
				}
				taken++
			}
			if free = taken < seats; !free {
				return nil // nothing is written
			}
			return tx.Put("seats/"+who, nil, kv.WithTTL(time.Minute))
		})
		must(err)
		return free
	}
	fmt.Println(book("ada"), book("bob"), book("eve"))
	// Output: true true false
}

// GetMany reads any number of keys at one revision.
func ExampleStore_GetMany() {
	ctx, cli, store := connect("many")
	defer cli.Close()
	_, err := store.Batch(ctx, kv.OpPut("a", []byte("1")), kv.OpPut("b", []byte("2")))
	must(err)
	entries, rev, err := store.GetMany(ctx, "a", "b", "c")
	must(err)
	_, found := entries["c"]
	fmt.Println(string(entries["a"].Value), string(entries["b"].Value), found, rev > 0)
	// Output: 1 2 false true
}

// GetAsOf reads an earlier value.
func ExampleStore_GetAsOf() {
	ctx, cli, store := connect("as-of")
	defer cli.Close()
	rev, err := store.Put(ctx, "price", []byte("10"))
	must(err)
	_, err = store.Put(ctx, "price", []byte("12"))
	must(err)
	e, err := store.GetAsOf(ctx, "price", rev)
	must(err)
	fmt.Printf("%s\n", e.Value)
	// Output: 10
}

// A limit is checked before anything is sent.
func ExampleWithLimits() {
	ctx, cli, _ := connect("limits")
	defer cli.Close()
	store, err := kv.New(cli, kv.WithNamespace("example/limits"), kv.WithLimits(kv.Limits{RequestBytes: 1024}))
	must(err)
	_, err = store.Put(ctx, "image", make([]byte, 2048))
	fmt.Println(errors.Is(err, kv.ErrTooLarge))
	// Output: true
}

// Touch extends the life of a key without sending its value.
func ExampleStore_Touch() {
	ctx, cli, store := connect("touch")
	defer cli.Close()
	_, err := store.Put(ctx, "session", []byte("data"), kv.WithTTL(10*time.Second))
	must(err)
	_, err = store.Touch(ctx, "session", time.Minute)
	must(err)
	e, err := store.Get(ctx, "session")
	must(err)
	fmt.Println(string(e.Value), e.Lease != 0)
	// Output: data true
}

// BatchEach returns the result of each operation and can send several transactions concurrently.
func ExampleStore_BatchEach() {
	ctx, cli, store := connect("each")
	defer cli.Close()
	users := kv.NewTyped(store, "users", kv.String())
	results, err := store.BatchEach(ctx, []kv.Op{
		users.OpPut("1", "Ada"), users.OpPut("2", "Bob"), users.OpDelete("3"),
	}, kv.WithInFlight(4))
	must(err)
	for _, r := range results {
		fmt.Println(r.Err, r.Revision > 0)
	}
	// Output:
	// <nil> true
	// <nil> true
	// <nil> false
}

// WithReadRevision stores the revision of a listing. A watch after it misses no change.
func ExampleWithReadRevision() {
	ctx, cli, store := connect("revision")
	defer cli.Close()
	at, err := store.Put(ctx, "d/k", nil)
	must(err)
	var rev int64
	for _, err := range store.List(ctx, "d/", kv.WithReadRevision(&rev)) {
		must(err)
	}
	fmt.Println(rev >= at)
	// Output: true
}

// Decode reads the entries in the response to a transaction.
func ExampleTyped_Decode() {
	ctx, cli, store := connect("decode")
	defer cli.Close()
	users := kv.NewTyped(store, "users", kv.String())
	_, err := store.Batch(ctx, users.OpPut("1", "Ada"), users.OpPut("2", "Bob"))
	must(err)
	resp, err := store.Txn(ctx).Then(clientv3.OpPut("audit", "read"), clientv3.OpGet("users/", clientv3.WithPrefix())).Commit()
	must(err)
	for _, pair := range resp.Responses[1].GetResponseRange().Kvs {
		e, err := users.Decode(pair)
		must(err)
		fmt.Println(e.Key, e.Value)
	}
	// Output:
	// 1 Ada
	// 2 Bob
}

// WithSkipEqual writes only if the value has changed.
func ExampleWithSkipEqual() {
	ctx, cli, store := connect("skip")
	defer cli.Close()
	users := kv.NewTyped(store, "users", kv.JSON[map[string]string]())
	rev, err := users.Put(ctx, "1", map[string]string{"name": "Ada"})
	must(err)
	for _, name := range []string{"Ada", "Bob"} {
		e, err := users.Update(ctx, "1", func(u *map[string]string) error { (*u)["name"] = name; return nil }, kv.WithSkipEqual())
		must(err)
		fmt.Println(name, "was written:", e.ModRevision > rev)
	}
	// Output:
	// Ada was written: false
	// Bob was written: true
}

// Update keeps the lease of the key unless an option says otherwise.
func ExampleWithoutLease() {
	ctx, cli, store := connect("lease")
	defer cli.Close()
	drafts := kv.NewTyped(store, "drafts", kv.String())
	_, err := drafts.Put(ctx, "1", "Hello", kv.WithTTL(time.Hour))
	must(err)
	e, err := drafts.Update(ctx, "1", func(text *string) error { *text += ", world"; return nil })
	must(err)
	fmt.Println(e.Value, "expires:", e.Lease != 0)
	e, err = drafts.Update(ctx, "1", func(text *string) error { *text += "!"; return nil }, kv.WithoutLease())
	must(err)
	fmt.Println(e.Value, "expires:", e.Lease != 0)
	// Output:
	// Hello, world expires: true
	// Hello, world! expires: false
}
