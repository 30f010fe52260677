package embedded_test

import (
	"fmt"

	"github.com/etcdkit/etcdkit/etcdtest"
	_ "github.com/etcdkit/etcdkit/etcdtest/embedded" // etcd is in this test binary
)

const key = "greeting"

// A test file imports the package for its side effect. Tests use package etcdtest as usual.
func Example() {
	t := newT() // a test has its t
	defer t.Finish()

	client := etcdtest.Open(t)
	if _, err := client.KV().Put(t.Context(), key, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	entry, err := client.KV().Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s\n", entry.Value)
	// Output: hello
}
