package lease

import "strconv"

// State says how a session or a key is doing.
type State int

const (
	// Alive means that all is well.
	Alive State = iota
	// Suspended means of a session that its renewals fail while its deadline is not reached yet: it can still be relied
	// on. Of a key it means that the key is not there, or not as it should be, and is being restored.
	Suspended
	// Lost means that it is over: the session was lost, or what is asked was closed. See Err or the cause of Context.
	Lost
)

// String is the state in lower case.
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
