package lease

import "strconv"

// State is the state of a session or a key.
type State int

const (
	// Alive means that the session is renewed, or that the key is in etcd as it should be.
	Alive State = iota
	// Suspended means, for a session, that renewals fail but the deadline has not passed: the
	// session is still valid. For a key it means that the key is missing or differs from what it
	// should be, and is being restored.
	Suspended
	// Lost means that the session was lost or closed, or that the key was closed. Err or the cause
	// of Context says why.
	Lost
)

// String returns the state in lower case.
func (s State) String() string {
	switch s {
	case Alive:
		return "alive"
	case Suspended:
		return "suspended"
	case Lost:
		return "lost"
	}
	return "state " + strconv.Itoa(int(s))
}
