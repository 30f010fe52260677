package etcdtest_test

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/etcdtest"
)

// loggingTB is a test whose log can be read.
type loggingTB struct {
	*testing.T

	log chan string
}

func (t loggingTB) Output() io.Writer { return t }

func (t loggingTB) Write(p []byte) (int, error) {
	t.log <- string(p)
	return len(p), nil
}

func TestOpen_LogsToTheTest(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	log := make(chan string, 100)
	_, err := server.Open(loggingTB{t, log}).Leases().OpenSession(t.Context())
	require.NoError(t, err)
	server.Kill()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	select {
	case line := <-log:
		assert.Contains(t, line, "level=WARN")
	case <-limit.C:
		assert.Fail(t, "an outage is not logged")
	}
}
