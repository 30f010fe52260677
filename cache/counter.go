package cache

import (
	"sync/atomic"
	"unsafe"
)

// counter counts concurrent events. Its cells are in separate cache lines, because a single shared
// counter would cost more than the rest of a hit.
type counter [counterCells]struct {
	n atomic.Uint64
	_ [cacheLine - 8]byte
}

const (
	counterCells = 32
	stackBits    = 11 // the smallest stack is 2 KiB
	cacheLine    = 64
)

// add adds one. It selects a cell by the address of the goroutine's stack, which costs nothing. Any
// cell would be correct.
func (c *counter) add() {
	var here byte
	at := uintptr(unsafe.Pointer(&here)) //nolint:gosec // a number that is never converted back to a pointer
	c[at>>stackBits%counterCells].n.Add(1)
}

func (c *counter) load() (sum uint64) {
	for i := range c {
		sum += c[i].n.Load()
	}
	return sum
}
