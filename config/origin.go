package config

import (
	"strconv"
	"time"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// Client is the part of *etcdkit.Client that a [Source] uses. The store and the watcher must be of
// the same namespace.
type Client interface {
	KV() *kv.Store
	Watcher() *watch.Watcher
}

// Origin is where a value comes from.
type Origin int

// The origins. An environment variable overrides etcd's value, which overrides the fallback file's,
// which overrides the default. The state file stands in for etcd until etcd first answers.
const (
	// Live is etcd. Status.Age bounds how old the value is.
	Live Origin = iota
	// StateFile is the copy of etcd's state that an earlier process saved; see WithStateFile.
	StateFile
	// FallbackFile is the file set by WithFallbackFile.
	FallbackFile
	// Defaults are values in the program: WithDefault, default tags, arguments of GetOr.
	Defaults
	// Environment is an environment variable; see WithEnvironment.
	Environment
)

// String returns a readable name, such as "state file".
func (o Origin) String() string {
	switch o {
	case Live:
		return "etcd"
	case StateFile:
		return "state file"
	case FallbackFile:
		return "fallback file"
	case Defaults:
		return "defaults"
	case Environment:
		return "environment"
	}
	return "Origin(" + strconv.Itoa(int(o)) + ")"
}

// Provenance is the origin of one value.
type Provenance struct {
	Key      string // relative to the source's directory
	Origin   Origin
	Revision int64  // of the write; 0 if the value was never read from etcd
	Name     string // of the file or of the variable; "" where it comes from neither
}

// Status describes where a source's values come from and how old they are.
type Status struct {
	Origin Origin // of the layer below the environment: Live, or its substitute until etcd answers
	// Age bounds how long changes may have been missed. For Live it is up to 36 s while the watch
	// is idle, because an idle watch is checked every 30 s ±20 %. For StateFile it counts from when
	// the state was last known to be current, for FallbackFile from the file's modification, and
	// for Defaults from Open.
	Age      time.Duration
	Revision int64 // applied revision; 0 for FallbackFile and Defaults
	// Err is why the source is not live or its watch is down. It is nil if the watch is live, or if
	// the cause is not known yet.
	Err error
}

// A Change is a change of a key's effective value. Do not modify the bytes.
type Change struct {
	Key      string // relative to the source's directory
	Old, New []byte // nil if absent
	Revision int64  // of the transaction
}

// Stats holds counters of a source.
type Stats struct {
	Keys        int    `json:"keys"`        // current number, including the fallback file's
	Bound       int    `json:"bound"`       // bound values
	Following   int    `json:"following"`   // functions called on changes
	Updates     uint64 `json:"updates"`     // revisions applied
	Decodes     uint64 `json:"decodes"`     // decodings of bound values
	BadValues   uint64 `json:"badValues"`   // invalid values received
	Bad         int    `json:"bad"`         // bound values whose latest state is invalid
	Panics      uint64 `json:"panics"`      // of callbacks and of methods of values
	Folded      uint64 `json:"folded"`      // changes merged or dropped because a callback was slow
	Ignored     uint64 `json:"ignored"`     // keys received that are not valid names
	StateWrites uint64 `json:"stateWrites"` // writes of the state file
	StateErrors uint64 `json:"stateErrors"` // failed writes of the state file
}
