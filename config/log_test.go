package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

// logRecorder is the output of a logger.
type logRecorder struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (r *logRecorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(b)
}

// logger returns a logger that writes to r, without times.
func (r *logRecorder) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// lines returns what was logged, without revisions.
func (r *logRecorder) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := revision.ReplaceAllString(r.out.String(), "revision N")
	return strings.Split(strings.TrimSpace(revisionAttr.ReplaceAllString(text, "revision=N")), "\n")
}

func TestLog_OneRecordWhenValueTurnsBadAndOneWhenGood(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "db/pool", "5")
	var log logRecorder
	s := open(t, p, config.WithLogger(log.logger()))
	type db struct{ Pool, Size int }
	v := bindDir(t, s, "db", config.WithValidate(func(x db) error {
		if x.Pool < 0 {
			return errors.New("negative")
		}
		return nil
	}))
	for _, text := range []string{"many", "more", "-1", "6", "7"} {
		waitForRevision(t, s, put(t, p, "db/pool", text))
	}
	require.NoError(t, v.Err())
	assert.EqualValues(t, 3, s.Stats().BadValues)
	waitForRevision(t, s, put(t, p, "rate", "x"))
	for range 3 {
		config.GetOr(s, "rate", 1)
	}
	waitForRevision(t, s, put(t, p, "rate", "y"))
	config.GetOr(s, "rate", 1)
	waitForRevision(t, s, put(t, p, "rate", "2"))
	for range 2 {
		assert.Equal(t, 2, config.GetOr(s, "rate", 1))
	}
	assert.Equal(t, []string{
		`level=WARN msg="config could not be used" dir=conf/ key=db/ revision=N error="key \"db/pool\": bad value at revision N: value cannot be decoded: not a whole number that fits int"`,
		`level=WARN msg="config can be used again" dir=conf/ key=db/`,
		`level=WARN msg="config could not be used" dir=conf/ key=rate revision=N error="bad value at revision N: value cannot be decoded: not a whole number that fits int"`,
		`level=WARN msg="config can be used again" dir=conf/ key=rate`,
	}, log.lines())
}

func TestLog_AttributesWithoutValueAreLeftOut(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.json")
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	var log logRecorder
	open(t, parttest.Shared(t), config.WithStateFile(path), config.WithLogger(log.logger()))
	require.Len(t, log.lines(), 1)
	line := log.lines()[0]
	assert.Contains(t, line, `level=WARN msg="config could not be used" dir=conf/ error=`)
	assert.NotContains(t, line, "key=")
	assert.NotContains(t, line, "revision=")
}

func TestStats_HaveJSONNames(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(config.Stats{Keys: 1, StateErrors: 2})
	require.NoError(t, err)
	assert.JSONEq(t, `{"keys":1,"bound":0,"following":0,"updates":0,"decodes":0,"badValues":0,"bad":0,"panics":0,"folded":0,
		"ignored":0,"stateWrites":0,"stateErrors":2}`, string(b))
}
