package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheLimitChangesUnderTheServerAndSurvivesABadValue(t *testing.T) {
	t.Setenv("ETCD_ENDPOINTS", "")
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	said := regexp.MustCompile(`revision \d+`).ReplaceAllString(out.String(), "revision N")
	assert.Equal(t, `the limit is 2 (the default)
the server lets 2 requests through
the limit is 5
the server lets 5 requests through
told of a bad value: http/rate-limit: bad value at revision N: value cannot be decoded: not a whole number that fits int
the server lets 5 requests through
`, said)
}
