package discovery

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// The limits of what is registered.
const (
	// MaxWeight is the largest weight of an instance.
	MaxWeight = 1 << 16
	// MaxMetadata is how many bytes the keys and values of an instance's Metadata may have in all; so may its Tags.
	MaxMetadata = 1 << 10

	wordBytes = 255 // of host, scheme, version and zone
	maxPort   = 1<<16 - 1
)

// check refuses an instance that could not be registered. All that is wrong is told.
func (i *Instance) check() error {
	size := 0
	for k, v := range i.Metadata {
		size += len(k) + len(v)
	}
	tags := 0
	for _, tag := range i.Tags {
		tags += len(tag)
	}
	bad := []error{
		segment("service", i.Service), segment("id", i.ID), i.checkAddr(), i.checkWords(),
		limit("metadata", size, MaxMetadata), limit("tags", tags, MaxMetadata),
	}
	if i.Weight < 0 || i.Weight > MaxWeight {
		bad = append(bad, invalid("weight %d: it must be 0 to %d", i.Weight, MaxWeight))
	}
	return errors.Join(bad...)
}

// segment refuses what is not a name, or not a single segment of a key.
func segment(what, name string) error {
	if err := keyspace.Name(name); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if strings.Contains(name, "/") {
		return fmt.Errorf(`%s: %w: name %s holds a "/"`, what, errs.Invalid, errs.Quote(name))
	}
	return nil
}

func limit(what string, size, most int) error {
	if size > most {
		return fmt.Errorf("%w: %s is %d bytes, the limit is %d", errs.TooLarge, what, size, most)
	}
	return nil
}

func (i *Instance) checkAddr() error {
	var bad []error
	if i.Port < 1 || i.Port > maxPort {
		bad = append(bad, invalid("port %d: it must be 1 to %d", i.Port, maxPort))
	}
	return errors.Join(append(bad, checkHost(i.Host))...)
}

// checkHost refuses what cannot be a host. It does not resolve names.
func checkHost(host string) error {
	switch {
	case host == "":
		return invalid("host is empty")
	case len(host) > wordBytes:
		return limit("host", len(host), wordBytes)
	case strings.Contains(host, ":"):
		if _, err := netip.ParseAddr(host); err != nil {
			return invalid("host %s: a port belongs into Port, and an IPv6 address has no brackets", errs.Quote(host))
		}
		return nil
	case !utf8.ValidString(host), strings.ContainsFunc(host, notOfHost):
		return invalid("host %s is neither a name nor an address", errs.Quote(host))
	}
	return nil
}

func notOfHost(r rune) bool {
	return unicode.IsControl(r) || unicode.IsSpace(r) || strings.ContainsRune(`/\?#@[]<>^|"%`+"`{}", r)
}

func (i *Instance) checkWords() error {
	var bad []error
	word := func(what, s string) {
		bad = append(bad, limit(what, len(s), wordBytes))
		if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
			bad = append(bad, invalid("%s %s is not plain text", what, errs.Quote(s)))
		}
	}
	word("version", i.Version)
	word("zone", i.Zone)
	for n, r := range i.Scheme {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (n == 0 || !strings.ContainsRune("0123456789+-.", r)) {
			bad = append(bad, invalid("scheme %s is none", errs.Quote(i.Scheme)))
			break
		}
	}
	bad = append(bad, limit("scheme", len(i.Scheme), wordBytes))
	for _, tag := range i.Tags {
		if tag == "" || !utf8.ValidString(tag) || strings.ContainsFunc(tag, unicode.IsControl) {
			bad = append(bad, invalid("tag %s is not plain text", errs.Quote(tag)))
		}
	}
	for k, v := range i.Metadata {
		if k == "" || !utf8.ValidString(k) || !utf8.ValidString(v) {
			bad = append(bad, invalid("metadata %s is not text with a name", errs.Quote(k)))
		}
	}
	if i.Status != "" && i.Status != Up && i.Status != Draining {
		bad = append(bad, invalid("status %s", errs.Quote(string(i.Status))))
	}
	return errors.Join(bad...)
}
