package etcdkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// DNS service names of etcd clients, from etcd's documentation.
const (
	srvSecure = "etcd-client-ssl"
	srvPlain  = "etcd-client"
)

// lookupSRV is the method of net.Resolver that discovery uses.
type lookupSRV func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)

// errNoRecords means that the domain has no such records.
var errNoRecords = errors.New("no records")

// discover looks up the endpoints of a domain, in the order of their priority. Records for TLS are
// preferred to those without, and are the only ones used if secure is set, because TLS is
// configured. A failed lookup of the TLS records does not mean that there are none: otherwise an
// attacker who can make the lookup fail could disable TLS.
func discover(ctx context.Context, lookup lookupSRV, domain string, secure bool) ([]string, error) {
	if lookup == nil {
		lookup = net.DefaultResolver.LookupSRV
	}
	eps, err := recordsOf(ctx, lookup, srvSecure, domain, "https://")
	if err == nil || secure || !absent(err) {
		return eps, err
	}
	plain, plainErr := recordsOf(ctx, lookup, srvPlain, domain, "http://")
	if len(plain) > 0 {
		return plain, nil
	}
	return nil, fmt.Errorf("%w; %w", err, plainErr)
}

// absent reports whether a lookup failed because there are no records.
func absent(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound || errors.Is(err, errNoRecords)
}

// recordsOf returns the addresses of one kind of record, or an error if there are none.
func recordsOf(ctx context.Context, lookup lookupSRV, service, domain, scheme string) ([]string, error) {
	_, records, err := lookup(ctx, service, "tcp", domain)
	if err == nil && len(records) == 0 {
		err = fmt.Errorf("%w _%s._tcp.%s", errNoRecords, service, domain)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: discovery: %w", errs.Unavailable, err)
	}
	out := make([]string, len(records))
	for i, r := range records {
		out[i] = scheme + net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port)))
	}
	return out, nil
}
