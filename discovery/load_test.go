package discovery_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

// fakeRecordingPolicy picks the n-th candidate and records the load of each.
type fakeRecordingPolicy struct {
	n    int
	seen []int
}

func (l *fakeRecordingPolicy) Choose(c discovery.Candidates, _ string) int {
	l.seen = l.seen[:0]
	for n := range c.Len() {
		l.seen = append(l.seen, c.Load(n))
	}
	return l.n
}

func TestPick_SecondDoneIsIgnored(t *testing.T) {
	t.Parallel()
	s, _ := newServiceOf(t, 2, nil)
	l := &fakeRecordingPolicy{}
	p := s.Picker(l)
	for range 10 {
		k, err := p.Pick()
		require.NoError(t, err)
		k.Done(nil)
		k.Done(nil)
	}
	one, err := p.Pick()
	require.NoError(t, err)
	_, err = p.Pick()
	require.NoError(t, err)
	assert.Equal(t, []int{1, 0}, l.seen)
	one.Done(nil)
}

func TestPick_LoadIsForgottenWithInstance(t *testing.T) {
	t.Parallel()
	s, p := newServiceOf(t, 2, nil)
	l := &fakeRecordingPolicy{}
	picker := s.Picker(l)
	var old discovery.Pick
	for range 11 {
		k, err := picker.Pick()
		require.NoError(t, err)
		old = k
	}
	assert.Equal(t, []int{10, 0}, l.seen)
	put(t, p, "services/s/instances/00", `{"host":"h","port":1,"zone":"z"}`)
	parttest.Eventually(t, func() bool { return s.Instances()[0].Zone == "z" })
	_, err := picker.Pick()
	require.NoError(t, err)
	assert.Equal(t, []int{11, 0}, l.seen, "it is the same process still")
	put(t, p, "services/s/instances/00", `{"host":"h","port":1,"registrationTime":1700000000000}`)
	parttest.Eventually(t, func() bool { return s.Instances()[0].Zone == "" })
	_, err = picker.Pick()
	require.NoError(t, err)
	assert.Equal(t, []int{0, 0}, l.seen, "another process has done nothing yet")
	old.Done(nil)
	_, err = picker.Pick()
	require.NoError(t, err)
	assert.Equal(t, []int{1, 0}, l.seen, "nor does it get the credit of the old one")
}

func TestPick_CancellationIsNoFailure(t *testing.T) {
	t.Parallel()
	s, _ := newServiceOf(t, 2, nil, discovery.WithEjection(1, 1<<40))
	p := s.Picker(nil)
	for _, err := range []error{
		context.Canceled, fmt.Errorf("call: %w", context.Canceled), status.Error(codes.Canceled, "the caller has left"),
		fmt.Errorf("call: %w", status.Error(codes.Canceled, "the caller has left")),
	} {
		failPicks(t, p, 100, err, "00")
		assert.Len(t, countPicks(t, p, 10), 2, "%v", err)
	}
	failPicks(t, p, 1, status.Error(codes.Unavailable, "gone"), "00")
	assert.Equal(t, map[string]int{"01": 10}, countPicks(t, p, 10))
}

func TestSticky_OwnersAreStableAcrossReleases(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		member func(i int) string
		want   string
	}{
		"equal weights": {nil, "254664262121514225674471"},
		"other weights": {func(i int) string { return fmt.Sprintf(`"weight":%d`, 1+i) }, "254664662171514675674474"},
	} {
		s, _ := newServiceOf(t, 8, tt.member)
		p := s.Picker(discovery.Sticky())
		var got strings.Builder
		for n := range 24 {
			k, err := p.PickFor(fmt.Sprint("customer/", n))
			require.NoError(t, err)
			got.WriteString(k.Instance.ID[1:])
			k.Done(nil)
		}
		assert.Equal(t, tt.want, got.String(), name)
	}
}
