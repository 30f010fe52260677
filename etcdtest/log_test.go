package etcdtest_test

import (
	"io"
	"strings"
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

func TestOpen_LogsToTheTestUntilItEnds(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	log := make(chan string, 100)
	t.Run("test", func(t *testing.T) {
		_, err := server.Open(loggingTB{t, log}).Leases().OpenSession(t.Context())
		require.NoError(t, err)
		server.Kill()
		select {
		case line := <-log:
			assert.True(t, strings.Contains(line, "level=WARN"), line)
		case <-time.After(20 * time.Second):
			assert.Fail(t, "an outage is not logged")
		}
	})
}
