package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/examples/internal/exampletest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

func TestRun_RefusesWriteOfFormerHolder(t *testing.T) {
	assert.Equal(t, `the first holder writes: <nil>
it stands still for longer than its lease lives
a second one holds the lock, and its token is higher: true
it has written, and released
the first one wakes up and goes on writing: refused: a later holder has written
a check would have told it: lock: verify "report": lock lost: its key was deleted
the report is of the second
`, exampletest.Output(t, run))
}

func TestRun_EndsOnCtrlC(t *testing.T) {
	exampletest.Interrupt(t, run, "it stands still")
}

func TestArchive_AcceptsWritesOfOneHolder(t *testing.T) {
	var a archive
	require.NoError(t, a.write("draft", 7))
	require.NoError(t, a.write("final", 7))
	require.ErrorIs(t, a.write("old", 6), errStale)
	assert.Equal(t, "final", a.report)
}
