package main

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/examples/internal/exampletest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

func TestRun_RefusesWriteOfFormerHolder(t *testing.T) {
	assert.Equal(t, `while it is held, another caller is told so: true
the holder has written, and released
a second holder begins, and stands still
a third acquires the lock, and its token is higher: true
the second wakes up and writes: refused true, because it has lost the lock: true
the report is from the third
`, exampletest.Output(t, run))
}

func TestRun_EndsOnCtrlC(t *testing.T) {
	exampletest.Interrupt(t, run, "the holder has written")
}
