package integration_test

import (
	"os"
	"testing"
	"time"

	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

// scale picks a figure of a suite: the short form, or the full one where ETCDKIT_LONG is set.
func scale[T any](short, full T) T {
	if os.Getenv("ETCDKIT_LONG") != "" {
		return full
	}
	return short
}

// spend lets time pass that is part of a scenario, such as how long a member is down.
func spend(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}
