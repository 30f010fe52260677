package discovery

import (
	"maps"
	"net"
	"slices"
	"strconv"
	"time"
)

// Instance is one running copy of a service, and where it is reached.
//
// Instances that this package hands out are shared: do not change their Tags and Metadata.
type Instance struct {
	Service string // its name: 1 to 512 bytes without "/" and control characters
	ID      string // tells it from the others of the service; as a name. Best stable over restarts, such as a pod's name
	Host    string // a DNS name or an IP address, without brackets and port
	Port    int    // 1 to 65535

	Scheme   string            // such as "https"; may be empty, as may all below
	Version  string            // for [OnlyVersion]
	Zone     string            // for [OnlyZone] and [PreferZone]
	Weight   int               // for [Weighted], [LeastLoaded] and [Sticky]: 0 counts as 1; at most [MaxWeight]
	Tags     []string          // for [OnlyTag]
	Metadata map[string]string // at most 1 KiB in all

	// Status is Up unless it is said otherwise. Register, Update and Drain set it.
	Status Status
	// Registered is when the instance was registered first, by the clock of its own process. Register sets it.
	Registered time.Time
}

// Status says whether an instance wants work.
type Status string

// What the status of an instance can be. What a reader does not know it takes for Draining.
const (
	// Up takes work. So does the empty Status.
	Up Status = "up"
	// Draining finishes what it has and is about to leave: pickers and resolvers leave it alone while there are others.
	Draining Status = "draining"
)

// Addr is the instance's "host:port".
func (i *Instance) Addr() string { return net.JoinHostPort(i.Host, strconv.Itoa(i.Port)) }

// URL is the instance's "scheme://host:port"; without a scheme, it is "//host:port".
func (i *Instance) URL() string {
	if i.Scheme == "" {
		return "//" + i.Addr()
	}
	return i.Scheme + "://" + i.Addr()
}

// up reports whether the instance wants work.
func (i *Instance) up() bool { return i.Status == Up || i.Status == "" }

// weight is the weight that counts.
func (i *Instance) weight() int { return max(i.Weight, 1) }

// clone is a copy that shares nothing.
func (i *Instance) clone() Instance {
	c := *i
	c.Tags, c.Metadata = slices.Clone(i.Tags), maps.Clone(i.Metadata)
	return c
}

// same reports whether two instances are equal.
func (i *Instance) same(j *Instance) bool {
	return i.Service == j.Service && i.ID == j.ID && i.Host == j.Host && i.Port == j.Port && i.Scheme == j.Scheme &&
		i.Version == j.Version && i.Zone == j.Zone && i.Weight == j.Weight && i.Status == j.Status &&
		i.Registered.Equal(j.Registered) && slices.Equal(i.Tags, j.Tags) && maps.Equal(i.Metadata, j.Metadata)
}
