package endpoint

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"google.golang.org/grpc/resolver"

	"github.com/etcdkit/etcdkit/internal/errs"
)

const (
	defaultPort = "2379"

	// redacted replaces the parts of an invalid address that could be secret.
	redacted = "[redacted]"
)

// Endpoint is a validated address of etcd.
type Endpoint struct {
	scheme string // "", http, https, unix, unixs
	addr   string // host:port, or what follows the scheme of a unix socket, including slashes
}

// String formats the endpoint as client/v3 expects it.
func (e Endpoint) String() string {
	switch e.scheme {
	case "":
		return e.addr
	case "unix", "unixs":
		return e.scheme + ":" + e.addr
	}
	return e.scheme + "://" + e.addr
}

func (e Endpoint) isSocket() bool { return e.scheme == "unix" || e.scheme == "unixs" }

// RequiresTLS reports whether the scheme requires TLS.
func (e Endpoint) RequiresTLS() bool { return e.scheme == "https" || e.scheme == "unixs" }

// excludesTLS reports whether the scheme excludes TLS. If a scheme neither requires nor excludes
// TLS, the configuration decides.
func (e Endpoint) excludesTLS() bool { return e.scheme == "http" }

// isLocal reports whether traffic to e never leaves the machine.
func (e Endpoint) isLocal() bool {
	if e.isSocket() {
		return true
	}
	host, _, err := net.SplitHostPort(e.addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// resolverAddress returns the address for gRPC, and the name that the certificate must be valid
// for.
func (e Endpoint) resolverAddress() resolver.Address {
	if !e.isSocket() {
		return resolver.Address{Addr: e.addr, ServerName: e.addr}
	}
	addr := e.addr
	if !strings.HasPrefix(addr, "///") {
		addr = strings.TrimPrefix(addr, "//")
	}
	return resolver.Address{Addr: "unix:" + addr, ServerName: path.Base(e.addr)}
}

// ParseAll parses addresses and checks that their schemes agree. It drops duplicates. It returns
// all errors, each of which matches [errs.Invalid].
func ParseAll(list []string) ([]Endpoint, []error) {
	if len(list) == 0 {
		return nil, []error{errs.Invalidf("the list of endpoints is empty")}
	}
	var out []Endpoint
	var all []error
	var withTLS, withoutTLS string
	for _, s := range list {
		e, err := parse(s)
		if err != nil {
			all = append(all, errs.Invalidf("endpoint %s %v", quoteRedacted(s), err))
			continue
		}
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
		switch {
		case e.RequiresTLS():
			withTLS = e.String()
		case e.excludesTLS():
			withoutTLS = e.String()
		}
	}
	if withTLS != "" && withoutTLS != "" {
		all = append(all, errs.Invalidf("endpoints %s and %s have different schemes: client/v3 would use that of the first one for all", withTLS, withoutTLS))
	}
	return out, all
}

// Format validates endpoints against the TLS settings and returns them in the format of client/v3.
// hasTLS means that TLS is configured, private that credentials must not cross the network without
// it. It returns all errors, each of which matches [errs.Invalid].
func Format(eps []Endpoint, hasTLS, private bool) ([]string, []error) {
	out := make([]string, len(eps))
	var all []error
	for i, e := range eps {
		if e.excludesTLS() && hasTLS {
			all = append(all, errs.Invalidf("endpoint %s has the scheme http, but TLS is configured", e))
		}
		if private && !hasTLS && !e.isLocal() {
			all = append(all, errs.Invalidf("credentials would be sent to %s in clear text: use https, or set allowInsecureCredentials", e))
		}
		out[i] = e.String()
	}
	return out, all
}

// parse parses one address. Its errors do not quote it.
func parse(s string) (Endpoint, error) {
	if s == "" {
		return Endpoint{}, errors.New("is empty")
	}
	if strings.ContainsFunc(s, unicode.IsControl) {
		return Endpoint{}, errors.New("contains a control character")
	}
	for _, scheme := range []string{"unix", "unixs"} {
		if rest, ok := strings.CutPrefix(s, scheme+":"); ok {
			if strings.Trim(rest, "/") == "" {
				return Endpoint{}, errors.New("has no socket path")
			}
			return Endpoint{scheme: scheme, addr: rest}, nil
		}
	}
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		scheme, rest = "", s
	}
	scheme = strings.ToLower(scheme)
	if found && scheme != "http" && scheme != "https" {
		return Endpoint{}, errors.New("has a scheme other than http, https, unix or unixs")
	}
	addr, err := parseHostPort(strings.TrimSuffix(rest, "/"))
	return Endpoint{scheme: scheme, addr: addr}, err
}

// parseLenient is like parse, but also accepts URLs with a path, as client/v3 does.
func parseLenient(s string) (Endpoint, error) {
	e, err := parse(s)
	if err == nil {
		return e, nil
	}
	if u, uerr := url.Parse(s); uerr == nil && u.Host != "" {
		return Endpoint{scheme: strings.ToLower(u.Scheme), addr: u.Host}, nil
	}
	return Endpoint{}, err
}

// parseHostPort parses "host[:port]" and adds the default port.
func parseHostPort(s string) (string, error) {
	switch {
	case s == "":
		return "", errors.New("has no host")
	case strings.Contains(s, "@"):
		return "", errors.New("contains a user; use username and password")
	case strings.ContainsAny(s, "/?#"):
		return "", errors.New("has a path, query or fragment")
	}
	host, port, err := splitHostPort(s)
	if err != nil {
		return "", err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '+' {
		return "", errors.New("has no port between 1 and 65535")
	}
	if err := checkHost(host); err != nil {
		return "", err
	}
	return net.JoinHostPort(host, port), nil
}

// splitHostPort splits "host:port", "host", "[ipv6]:port" and "[ipv6]".
func splitHostPort(s string) (host, port string, err error) {
	bracketed := strings.HasPrefix(s, "[")
	switch {
	case bracketed && strings.HasSuffix(s, "]"), !bracketed && !strings.Contains(s, ":"):
		host, port = strings.Trim(s, "[]"), defaultPort
	case !bracketed && strings.Count(s, ":") > 1:
		return "", "", errors.New("is not host:port (an IPv6 address needs brackets)")
	default:
		if host, port, err = net.SplitHostPort(s); err != nil || port == "" {
			return "", "", errors.New("is not host:port")
		}
	}
	if ip, perr := netip.ParseAddr(host); bracketed && (perr != nil || !ip.Is6()) {
		return "", "", errors.New("has brackets around something other than an IPv6 address")
	}
	return host, port, nil
}

// checkHost accepts IP addresses and host names.
func checkHost(host string) error {
	if host == "" {
		return errors.New("has no host")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			return errors.New("has an IPv6 zone, which client/v3 does not support")
		}
		return nil
	}
	if strings.Trim(host[strings.LastIndexByte(host, '.')+1:], "0123456789") == "" {
		return errors.New("has a malformed IP address")
	}
	isIllegal := func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' && r != '.' && r != '_'
	}
	if strings.ContainsFunc(host, isIllegal) {
		return errors.New("has a host name with illegal characters")
	}
	return nil
}

// quoteRedacted quotes an invalid address for an error, without anything that could be a password
// or a token.
func quoteRedacted(s string) string {
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		scheme, rest = "", s
	} else {
		scheme += "://"
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = redacted + rest[i:]
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i+1] + redacted
	}
	return errs.Quote(scheme + rest)
}

// SameAddress reports whether two endpoints have the same address, whatever their schemes.
func SameAddress(a, b string) bool {
	ea, err := parse(a)
	if err != nil {
		return false
	}
	eb, err := parse(b)
	return err == nil && ea.addr == eb.addr
}
