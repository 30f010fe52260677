// Package endpoint parses and looks up the addresses of etcd, and keeps a connection to each.
//
// The connections of a [Pool] are used in addition to the balanced connection of client/v3: to
// query a certain member, to find out why it does not answer, and for second attempts of slow
// calls.
package endpoint
