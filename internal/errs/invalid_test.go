package errs_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/errs"
)

func TestInvalidf_MatchesInvalidAndItsArgument(t *testing.T) {
	t.Parallel()
	cause := errors.New("no digits")
	err := errs.Invalidf("port %d: %w", 7, cause)
	require.ErrorIs(t, err, errs.Invalid)
	require.ErrorIs(t, err, cause)
	require.EqualError(t, err, errs.Invalid.Error()+": port 7: no digits")
}
