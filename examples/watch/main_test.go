package main

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/examples/internal/exampletest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

func TestRun_CopyIsRightAfterEachStart(t *testing.T) {
	assert.Equal(t, `started: the current state, at one revision
  snapshot: put stock/apples -> map[stock/apples:10]
  snapshot: put stock/pears -> map[stock/apples:10 stock/pears:5]
started again: every change since the checkpoint
  live: put stock/apples -> map[stock/apples:9 stock/pears:5]
  live: put stock/plums -> map[stock/apples:9 stock/pears:5 stock/plums:3]
  live: delete stock/plums -> map[stock/apples:9 stock/pears:5]
started again, and etcd has compacted its history meanwhile:
  revisions are gone, and the error says which: true
started again, for the state: one difference, deletions included
  resync: put stock/apples -> map[stock/apples:7]
`, exampletest.Output(t, run))
}

func TestRun_EndsOnCtrlC(t *testing.T) {
	for _, line := range []string{"live: put stock/apples", "revisions are gone"} {
		t.Run("after: "+line, func(t *testing.T) { exampletest.Interrupt(t, run, line) })
	}
}
