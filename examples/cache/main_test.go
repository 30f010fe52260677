package main

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/examples/internal/exampletest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

func TestRun_ReadsFromTheCache(t *testing.T) {
	assert.Equal(t, `hello Ada: 1,001 reads, 1 of them from etcd
an absent key is cached, too: true
as new as that write: Ada Lovelace
linearizable: Ada Lovelace
in the replica: users/42 is Ada Lovelace
`, exampletest.Output(t, run))
}

func TestRun_EndsOnCtrlC(t *testing.T) {
	exampletest.Interrupt(t, run, "an absent key")
}
