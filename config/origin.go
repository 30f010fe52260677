package config

import (
	"strconv"
	"time"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// Client is what a [Source] needs of a client, which *etcdkit.Client has. Both parts are of the same namespace.
type Client interface {
	KV() *kv.Store
	Watcher() *watch.Watcher
}

// Origin is where configuration comes from.
type Origin int

// The origins. For one key, a value of the environment goes before one of etcd, that before one of the fallback file,
// that before a default. The state file stands in for etcd until etcd answers for the first time.
const (
	// Live is etcd, as far as it was heard: [Status.Age] says how far that is.
	Live Origin = iota
	// StateFile is the copy of etcd's state that an earlier process left: see [WithStateFile].
	StateFile
	// FallbackFile is the file given to [WithFallbackFile].
	FallbackFile
	// Defaults are what the program itself says: WithDefault, default tags, the arguments of [GetOr].
	Defaults
	// Environment is a variable of the process's environment: see [WithEnvironment].
	Environment
)

// String is what a person would call it.
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

// Provenance says where one value comes from.
type Provenance struct {
	Key      string // below the source's dir
	Origin   Origin
	Revision int64  // at which it was written; 0 where it was not read from etcd, now or by the process that wrote the state file
	Name     string // of the file or of the variable; "" where it comes from neither
}

// Status says how fresh a source is.
type Status struct {
	Origin Origin // of what lies below the environment: Live, or what serves until etcd has answered
	// Age is for how long changes may have been missed: while the watch is well about a second at the most; for the state
	// file, the time since it was known to be right; for the fallback file, since it was written; for Defaults, since Open.
	Age      time.Duration
	Revision int64 // that the source has reached; 0 for FallbackFile and Defaults
	Err      error // why it is not live, or why its watch is down; nil where it is not, or the reason is not known yet
}

// Change is what happened to a key. The bytes are shared: do not change them.
type Change struct {
	Key      string // below the source's dir
	Old, New []byte // nil: absent
	Revision int64  // of the transaction that changed it
}

// Stats counts what a source did.
type Stats struct {
	Keys        int    `json:"keys"`        // how many there are now, those of the fallback file included
	Bound       int    `json:"bound"`       // how many values are bound
	Following   int    `json:"following"`   // how many functions are told of changes
	Updates     uint64 `json:"updates"`     // revisions that were taken over from etcd
	Decodes     uint64 `json:"decodes"`     // of bound values, each for all who load it
	BadValues   uint64 `json:"badValues"`   // values that could not be used, each time that one came
	Bad         int    `json:"bad"`         // bound values that now show an older state than etcd has, because that one is bad
	Panics      uint64 `json:"panics"`      // of functions that this package has called
	Folded      uint64 `json:"folded"`      // changes that a function was not told of by themselves, because it was too slow
	Ignored     uint64 `json:"ignored"`     // keys that are no names of configuration, each time that one came
	StateWrites uint64 `json:"stateWrites"` // of the state file
	StateErrors uint64 `json:"stateErrors"` // failed writes of the state file
}
