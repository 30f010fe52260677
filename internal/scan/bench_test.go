package scan_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/scan"
)

// BenchmarkList compares a scan of 10,000 keys of 256 bytes with one Get of all of them.
func BenchmarkList(b *testing.B) {
	const n = 10_000
	cli, dir := etcdtest.Client(b), etcdtest.Prefix(b)
	fill(b, cli, dir, n, string(make([]byte, 256)))
	b.Run("get", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			resp, err := cli.Get(b.Context(), dir, clientv3.WithPrefix())
			require.NoError(b, err)
			require.Len(b, resp.Kvs, n)
		}
	})
	for _, r := range []struct {
		name   string
		reader scan.Reader
	}{{"streams", cli.KV}, {"pages", namespace.NewKV(cli.KV, "")}} {
		b.Run(r.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				count := 0
				for kvs, err := range scan.New(r.reader, nil, []keyspace.Range{keyspace.Under(dir)}, scan.Options{}).Chunks(b.Context()) {
					require.NoError(b, err)
					count += len(kvs)
				}
				require.Equal(b, n, count)
			}
		})
	}
}
