package main

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/examples/internal/exampletest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

func TestRun_EachLeadsAndHandsOver(t *testing.T) {
	assert.Equal(t, `one leads, and everybody sees it
one leads, and everybody sees it
one leads, and everybody sees it
nobody leads any more
`, exampletest.Output(t, run))
}

func TestRun_EndsOnCtrlC(t *testing.T) {
	exampletest.Interrupt(t, run, "one leads")
}
