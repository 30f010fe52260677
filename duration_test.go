package etcdkit_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
)

func TestDuration_UnmarshalsText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{`"5s"`: 5 * time.Second, `"1m30s"`: 90 * time.Second, `"-1ms"`: -time.Millisecond, `"0"`: 0} {
		var d etcdkit.Duration
		require.NoError(t, json.Unmarshal([]byte(text), &d), text)
		assert.Equal(t, want, time.Duration(d), text)
	}
	kept := etcdkit.Duration(time.Minute)
	require.NoError(t, json.Unmarshal([]byte(`null`), &kept))
	assert.Equal(t, time.Minute, time.Duration(kept))
}

func TestDuration_RejectsNumberWithoutUnit(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`5`, `"5"`, `"five"`, `""`, `true`, `{}`} {
		var d etcdkit.Duration
		require.ErrorContains(t, json.Unmarshal([]byte(text), &d), `is not of the form "5s"`, text)
		assert.Zero(t, d)
	}
}

func TestDuration_MarshalsAsText(t *testing.T) {
	t.Parallel()
	out, err := json.Marshal(map[string]etcdkit.Duration{"d": etcdkit.Duration(90 * time.Second)})
	require.NoError(t, err)
	assert.JSONEq(t, `{"d":"1m30s"}`, string(out))
}
