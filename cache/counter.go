package cache

import (
	"sync/atomic"
	"unsafe"
)

// counter counts what many goroutines do at once, in cells of their own cache lines: one shared number would cost more than the
// rest of a hit.
type counter [counterCells]struct {
	n atomic.Uint64
	_ [cacheLine - 8]byte
}

const (
	counterCells = 32
	stackBits    = 11 // the smallest stack is 2 KiB
	cacheLine    = 64
)

// add counts one. Goroutines are told apart by where their stacks are, which costs nothing; which cell it is does not matter.
func (c *counter) add() {
	var here byte
	at := uintptr(unsafe.Pointer(&here)) //nolint:gosec // a number, which is not made a pointer again
	c[at>>stackBits%counterCells].n.Add(1)
}

func (c *counter) load() (sum uint64) {
	for i := range c {
		sum += c[i].n.Load()
	}
	return sum
}
