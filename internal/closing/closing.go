// Package closing tells the client when it may close the sessions of locks.
package closing

// drained returns the channel of a *lock.Locker, a type that this package cannot name.
//
//nolint:gochecknoglobals // set once, when package lock is initialized
var drained func(locker any) <-chan struct{}

// Provide makes f the source of [Drained]. Package lock calls it.
func Provide(f func(locker any) <-chan struct{}) bool {
	drained = f
	return true
}

// Drained returns a channel that Close of a *lock.Locker closes once no function runs under one of
// its locks, or it has stopped waiting for one. The sessions of the locks must not be closed
// before.
func Drained(locker any) <-chan struct{} { return drained(locker) }
