package main

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/examples/internal/exampletest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

func TestRun_NoCallFails(t *testing.T) {
	assert.Equal(t, `three servers have started: calls are answered by ada, grace, linus, and 0 have failed
ada was drained: calls are answered by grace, linus, and 0 have failed
grace was killed: calls are answered by linus, and 0 have failed
`, exampletest.Output(t, run))
}

func TestRun_EndsOnCtrlC(t *testing.T) {
	exampletest.Interrupt(t, run, "three servers have started")
}
