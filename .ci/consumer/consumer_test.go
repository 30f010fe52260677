// Package consumer is a module that gets the library from a proxy, as a user does.
package consumer

import (
	"testing"

	"github.com/etcdkit/etcdkit/etcdtest"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

func TestClient(t *testing.T) {
	client := etcdtest.Open(t)
	if _, err := client.KV().Put(t.Context(), "greeting", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	entry, err := client.KV().Get(t.Context(), "greeting")
	if err != nil || string(entry.Value) != "hello" {
		t.Fatal(entry, err)
	}
}

func TestServer(t *testing.T) {
	server := etcdtest.Start(t)
	server.Pause()
	server.Resume()
	server.Kill()
	server.Restart()
	server.Open(t)
	t.Log("etcd", server.Version())
}
