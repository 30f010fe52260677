package endpoint

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
	srvServiceTLS   = "etcd-client-ssl"
	srvServicePlain = "etcd-client"
)

// LookupFunc is the type of the method LookupSRV of [net.Resolver].
type LookupFunc func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)

// errNoRecords means that the domain has no such records.
var errNoRecords = errors.New("no records")

// LookupSRV looks up the endpoints of a domain, in the order of their priority. It prefers records
// for TLS to those without. If hasTLS is set, because TLS is configured, it uses only the former. A
// nil lookup is that of the system's resolver.
//
// A failed lookup of the TLS records does not mean that there are none: otherwise an attacker who
// can make the lookup fail could disable TLS.
func LookupSRV(ctx context.Context, lookup LookupFunc, domain string, hasTLS bool) ([]string, error) {
	if lookup == nil {
		lookup = net.DefaultResolver.LookupSRV
	}
	eps, err := lookupService(ctx, lookup, srvServiceTLS, domain, "https://")
	if err == nil || hasTLS || !isNotFound(err) {
		return eps, err
	}
	plain, plainErr := lookupService(ctx, lookup, srvServicePlain, domain, "http://")
	if len(plain) > 0 {
		return plain, nil
	}
	return nil, fmt.Errorf("%w; %w", err, plainErr)
}

// isNotFound reports whether a lookup failed because there are no records.
func isNotFound(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound || errors.Is(err, errNoRecords)
}

// lookupService returns the endpoints of one service, or an error if there are none.
func lookupService(ctx context.Context, lookup LookupFunc, service, domain, scheme string) ([]string, error) {
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
