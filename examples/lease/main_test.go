package main

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/examples/internal/exampletest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

func TestRun_SessionEndsInTimeAndKeyIsRestored(t *testing.T) {
	assert.Equal(t, `the session is alive, its TTL is 3s
its context has ended: lease expired: not found
a write with its guard: refused true, because it is lost: true
its key exists: false
somebody deletes it
it is restored: 10.0.0.1:80
somebody revokes its lease
it is restored: 10.0.0.1:80
it is closed; the key exists: false
`, exampletest.Output(t, run))
}

func TestRun_EndsOnCtrlC(t *testing.T) {
	for _, line := range []string{"the session is alive", "somebody deletes it", "somebody revokes its lease"} {
		t.Run("after: "+line, func(t *testing.T) { exampletest.Interrupt(t, run, line) })
	}
}
