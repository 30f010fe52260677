package errs

import "fmt"

// Invalidf returns an error that matches Invalid and that explains what is invalid. It formats like
// fmt.Errorf, including %w.
func Invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", Invalid, fmt.Errorf(format, args...))
}
