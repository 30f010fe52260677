package healthcheck_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/internal/healthcheck"
)

func TestUnsupportedReason(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{
		"3.5.13": "", "3.5.35": "", "3.5.13+dirty": "", "3.4.31": "", "3.6.0": "", "3.6.0-rc.1": "", "3.7.3": "", "3.10.0": "", "4.0.0": "",
		"3.5.7":  "overtake events (etcd#15220); 3.5.13 is required",
		"3.5.8":  "3.5.13 is required",
		"3.5.12": "3.5.13 is required",
		"3.4.24": "overtake events (etcd#15220); 3.4.31 is required",
		"3.4.30": "3.4.31 is required",
		"3.3.27": "3.4.31 is the oldest",
		"2.3.8":  "3.4.31 is the oldest",
		"":       "cannot be read",
		"3.5":    "cannot be read",
		"3.x.1":  "cannot be read",
		"3.5.-1": "cannot be read",
	} {
		got := healthcheck.UnsupportedReason(version)
		if want == "" {
			assert.Empty(t, got, version)
			continue
		}
		assert.Contains(t, got, want, version)
	}
}
