package etcdtest

// Must returns v, and panics if err is not nil. It is for constructors that do no I/O.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
