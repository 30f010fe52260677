//go:build !unix || aix || (solaris && !illumos)

package main

// lockDir does nothing: etcd itself locks its database, and a second member on the same data fails.
func lockDir(string) (unlock func(), err error) { return func() {}, nil }
