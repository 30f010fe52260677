package etcdtest

import (
	"testing"

	harness "github.com/etcdkit/etcdkit/internal/etcdtest"
)

// Feature is a property that not every supported server has.
type Feature int

// The features that [Requires] knows.
const (
	RangeStream Feature = iota + 1 // reads that arrive as a stream: etcd 3.7
	UnixSocket                     // members that show a Unix socket in the member list: etcd 3.7
)

// String returns the name of the feature.
func (f Feature) String() string {
	switch f {
	case RangeStream:
		return "RangeStream"
	case UnixSocket:
		return "UnixSocket"
	default:
		return "unknown feature"
	}
}

// Requires skips the test if the server lacks one of the features. The server is the one that
// ETCDKIT_TEST_ENDPOINTS names; without it, the one that [Start] starts. Requires ends the test if
// f is not one of the constants.
func Requires(tb testing.TB, f ...Feature) {
	tb.Helper()
	for _, version := range harness.Versions(tb) {
		for _, feature := range f {
			switch feature {
			case RangeStream, UnixSocket:
				if !harness.AtLeast(version, 3, 7) {
					tb.Skipf("etcd %s has no %v", version, feature)
				}
			default:
				tb.Fatalf("etcdtest: Requires: %v %d", feature, int(feature))
			}
		}
	}
}
