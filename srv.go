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

// The names under which etcd documents its clients' DNS records.
const (
	srvSecure = "etcd-client-ssl"
	srvPlain  = "etcd-client"
)

// lookupSRV is the part of net.Resolver that discovery uses.
type lookupSRV func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)

// errNoRecords says that there are none.
var errNoRecords = errors.New("no records")

// discover looks the endpoints of a domain up. Records for TLS win over those without; with secure, because TLS is
// configured, only they count. That they could not be looked up does not mean that there are none: whoever can make that
// fail could otherwise switch TLS off. Addresses come in the order of their priority.
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

// absent reports whether a look-up failed because there is nothing to be found.
func absent(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound || errors.Is(err, errNoRecords)
}

// recordsOf returns the addresses of one kind of record, or says why there are none.
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
