package etcdtest

import (
	"context"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// RootPassword is the password of the user "root" after [EnableAuth].
const RootPassword = "root of all"

// User is an account with what it may do.
type User struct {
	Name, Password string
	Grants         []Grant
}

// Grant allows a kind of access to the keys from Key up to, not including, End; to Key alone when
// End is empty.
type Grant struct {
	Access   clientv3.PermissionType
	Key, End string
}

// Read allows reading what begins with prefix.
func Read(prefix string) Grant { return grant(clientv3.PermissionType(clientv3.PermRead), prefix) }

// Write allows writing what begins with prefix.
func Write(prefix string) Grant { return grant(clientv3.PermissionType(clientv3.PermWrite), prefix) }

// ReadWrite allows reading and writing what begins with prefix.
func ReadWrite(prefix string) Grant {
	return grant(clientv3.PermissionType(clientv3.PermReadWrite), prefix)
}

func grant(access clientv3.PermissionType, prefix string) Grant {
	return Grant{Access: access, Key: prefix, End: clientv3.GetPrefixRangeEnd(prefix)}
}

// As makes a client log in as a user.
func As(name, password string) func(*clientv3.Config) {
	return func(cfg *clientv3.Config) { cfg.Username, cfg.Password = name, password }
}

// EnableAuth makes the accounts, and "root" with [RootPassword], and switches authentication on.
// Each user has a role of the same name. Clients that are open stay so and are refused.
func EnableAuth(tb testing.TB, s *Server, users ...User) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), readyTimeout)
	defer cancel()
	cli := s.Client(tb)
	AddUser(tb, cli, User{Name: "root", Password: RootPassword})
	for _, u := range users {
		AddUser(tb, cli, u)
	}
	_, err := cli.AuthEnable(ctx)
	must(tb, err)
	s.as = As("root", RootPassword)
}

// AddUser makes one more account, with a role of the same name. Once authentication is on, cli must
// be root's.
func AddUser(tb testing.TB, cli *clientv3.Client, u User) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), readyTimeout)
	defer cancel()
	_, err := cli.RoleAdd(ctx, u.Name)
	must(tb, err)
	for _, g := range u.Grants {
		_, err := cli.RoleGrantPermission(ctx, u.Name, g.Key, g.End, g.Access)
		must(tb, err)
	}
	_, err = cli.UserAdd(ctx, u.Name, u.Password)
	must(tb, err)
	_, err = cli.UserGrantRole(ctx, u.Name, u.Name)
	must(tb, err)
}
