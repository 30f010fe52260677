package errs_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"

	"github.com/etcdkit/etcdkit/internal/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestError_NamesPackageOperationAndKey(t *testing.T) {
	t.Parallel()
	why := errors.New("key not found")
	cases := map[string]struct {
		err  errs.Error
		want string
	}{
		"with a key":           {errs.Error{Pkg: "kv", Op: "get", Key: "users/42", Err: why}, `kv: get "users/42": key not found`},
		"without one":          {errs.Error{Pkg: "lease", Op: "grant", Err: why}, "lease: grant: key not found"},
		"with an unprintable":  {errs.Error{Pkg: "kv", Op: "put", Key: "a\x00\xffb\n", Err: why}, `kv: put "a\x00\xffb\n": key not found`},
		"with the longest one": {errs.Error{Pkg: "kv", Op: "put", Key: strings.Repeat("k", 128), Err: why}, `kv: put "` + strings.Repeat("k", 128) + `": key not found`},
		"with a longer one":    {errs.Error{Pkg: "kv", Op: "put", Key: strings.Repeat("k", 129), Err: why}, `kv: put "` + strings.Repeat("k", 128) + `"... (129 bytes): key not found`},
	}
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.EqualError(t, &tt.err, tt.want)
			assert.ErrorIs(t, &tt.err, why)
		})
	}
}

func TestTooLarge_MatchesInvalid(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("%w: 2 MiB", errs.TooLarge)
	assert.ErrorIs(t, err, errs.TooLarge)
	assert.ErrorIs(t, err, errs.Invalid)
	assert.NotErrorIs(t, errs.Invalid, errs.TooLarge)
	assert.EqualError(t, err, "too large: 2 MiB")
}

func TestConditions_AreDistinct(t *testing.T) {
	t.Parallel()
	all := []error{
		errs.Invalid, errs.Unavailable, errs.Unauthenticated, errs.Permission, errs.Compacted, errs.UnknownOutcome, errs.Closed, errs.LeaseNotFound,
		errs.HeldHere,
	}
	for i, a := range all {
		for j, b := range all {
			assert.Equal(t, i == j, errors.Is(a, b), "%v is %v", a, b)
		}
	}
}

func TestNotApplied_RequiresProof(t *testing.T) {
	t.Parallel()
	failed := func(unchanged bool, err error) error { return &errs.Error{NotApplied: unchanged, Err: err} }
	cases := map[string]struct {
		err  error
		want bool
	}{
		"success changes things":                        {nil, false},
		"an error that says so":                         {failed(true, errs.Unavailable), true},
		"an error that says so, wrapped":                {fmt.Errorf("save: %w", failed(true, errs.Unavailable)), true},
		"an error that does not say so":                 {failed(false, errs.Unavailable), false},
		"an unknown outcome, whatever else is said":     {failed(true, fmt.Errorf("%w: lost", errs.UnknownOutcome)), false},
		"an unknown outcome beside one that says so":    {errors.Join(failed(true, errs.Unavailable), errs.UnknownOutcome), false},
		"bad input is refused before anything is sent":  {fmt.Errorf("%w: empty key", errs.Invalid), true},
		"so is input that is too large":                 {fmt.Errorf("%w: 2 MiB", errs.TooLarge), true},
		"bad input that was found after a first change": {failed(false, errs.Invalid), false},
		"an error of somebody else":                     {errors.New("boom"), false},
	}
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, errs.NotApplied(tt.err))
		})
	}
}

func TestCause_RemovesContextOfFirstError(t *testing.T) {
	t.Parallel()
	inner := &errs.Error{Pkg: "kv", Op: "get", Key: "a", Err: errs.Invalid}
	assert.Equal(t, errs.Invalid, errs.Cause(inner))
	assert.Equal(t, errs.Invalid, errs.Cause(fmt.Errorf("outer: %w", inner)), "also behind other words")
	assert.Equal(t, errs.Closed, errs.Cause(errs.Closed))
	assert.NoError(t, errs.Cause(nil))
}
