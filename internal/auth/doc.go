// Package auth logs in to etcd and adds the token to every call.
//
// It uses interceptors of the connection instead of the credentials of client/v3, which log in when
// the client is created, never change the password, and log in for each stream.
package auth
