package retry_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// BenchmarkDo is what the engine adds to a read that is answered at once, with and without the
// means for a second attempt.
func BenchmarkDo(b *testing.B) {
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	for name, e := range map[string]*retry.Engine{
		"alone":  retry.New(retry.Config{}),
		"hedged": retry.New(retry.Config{Observed: true, Members: newFakeMembers()}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := retry.Do(ctx, e, read, func(context.Context, bool) (int, error) { return 1, nil })
				require.NoError(b, err)
			}
		})
	}
}
