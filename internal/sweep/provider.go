package sweep

// provider returns the sweeper of a *lease.Manager. This package cannot import package lease.
//
//nolint:gochecknoglobals // set once, when package lease is initialized
var provider func(manager any) *Sweeper

// Provide sets the function behind [Of]. Package lease calls it.
func Provide(f func(manager any) *Sweeper) bool {
	provider = f
	return true
}

// Of returns the sweeper of a *lease.Manager, or nil if the manager is invalid. The sweeper runs
// until the manager is closed, like the leases that keep the keys alive.
func Of(manager any) *Sweeper { return provider(manager) }
