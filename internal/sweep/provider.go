package sweep

// provider returns the sweeper of a *lease.Manager, a type that this package cannot name.
//
//nolint:gochecknoglobals // set once, when package lease is initialized
var provider func(manager any) *Sweeper

// Provide makes f the source of [Of]. Package lease calls it.
func Provide(f func(manager any) *Sweeper) bool {
	provider = f
	return true
}

// Of returns the sweeper of a *lease.Manager: it goes on until the manager is closed, as the leases do that keep the keys
// alive. It is nil for a manager that is of no use.
func Of(manager any) *Sweeper { return provider(manager) }
