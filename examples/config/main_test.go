package main

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/examples/internal/exampletest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

func TestRun_ChangesLimitAndSurvivesInvalidValue(t *testing.T) {
	said := regexp.MustCompile(`revision \d+`).ReplaceAllString(exampletest.Output(t, run), "revision N")
	assert.Equal(t, `the limit is 2 (the default)
the server lets 2 requests through
the limit is 5
the server lets 5 requests through
an invalid value is reported: http/rate-limit: bad value at revision N: value cannot be decoded: not a whole number that fits int
the server lets 5 requests through
`, said)
}

func TestReplace_NeverBlocks(t *testing.T) {
	c := make(chan int, 1)
	for n := range 3 {
		replace(c, n) // nobody receives
	}
	n, err := receive(t.Context(), c)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
}

func TestRun_EndsOnCtrlC(t *testing.T) {
	exampletest.Interrupt(t, run, "the limit is 5")
}
