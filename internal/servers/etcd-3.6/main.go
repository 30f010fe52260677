// Command etcd-3.6 is the etcd server of the version that go.mod requires. Tests run it as an older
// server.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
