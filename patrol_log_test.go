package etcdkit_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func TestPatrol_LogsOneRecordWhenAnOutageBeginsAndOneWhenItEnds(t *testing.T) {
	t.Parallel()
	lines := &lockedWriter{w: &strings.Builder{}}
	fl := newFleet("a", "b")
	patrolled(t, fl, nil, func(t *testing.T, p etcdkit.Patrol) {
		p.LogTo(lines.logger())
		count := func(text string) int { return strings.Count(lines.String(), "level=WARN msg=\""+text) }
		fl.is("refusing", "b")
		time.Sleep(30 * time.Second)
		assert.Equal(t, 1, count("etcd endpoint evicted\" endpoint=b error=\"connection refused\""))
		fl.is("refusing", "a")
		time.Sleep(30 * time.Second)
		assert.Equal(t, 1, count("no etcd endpoint answers\" error=\"a: connection refused; b: connection refused\""))
		fl.is("", "a", "b")
		time.Sleep(30 * time.Second)
		assert.Equal(t, 1, count("etcd endpoint readmitted\" endpoint=b"))
		assert.Equal(t, 1, count("etcd endpoints answer again"))
		assert.Equal(t, 4, strings.Count(lines.String(), "\n"), lines.String())
	})
}

func TestPatrol_LogsAFlappingEndpointOnceAMinute(t *testing.T) {
	t.Parallel()
	lines := &lockedWriter{w: &strings.Builder{}}
	fl := newFleet("a", "b")
	patrolled(t, fl, nil, func(t *testing.T, p etcdkit.Patrol) {
		p.LogTo(lines.logger())
		const minutes = 5
		for range minutes * 2 {
			fl.is("refusing", "b")
			time.Sleep(15 * time.Second)
			fl.is("", "b")
			time.Sleep(15 * time.Second)
		}
		_, evicted, _ := p.LeftOut()
		assert.EqualValues(t, minutes*2, evicted)
		got := strings.Count(lines.String(), "etcd endpoint evicted")
		assert.GreaterOrEqual(t, got, minutes-1)
		assert.LessOrEqual(t, got, minutes+1)
		assert.Equal(t, got, strings.Count(lines.String(), "etcd endpoint readmitted"))
	})
}

func TestClient_LogsTheOutageOfASingleEndpoint(t *testing.T) {
	t.Parallel()
	proxy := etcdtest.Start(t).Proxy(t)
	lines := &lockedWriter{w: &strings.Builder{}}
	open(t, etcdkit.Config{Endpoints: proxy.Endpoints()}, etcdkit.WithLogger(lines.logger()))
	proxy.Refuse()
	proxy.Cut()
	require.Eventually(t, func() bool { return strings.Contains(lines.String(), "no etcd endpoint answers") }, 30*time.Second, time.Millisecond)
	proxy.Accept()
	require.Eventually(t, func() bool { return strings.Contains(lines.String(), "etcd endpoints answer again") }, 30*time.Second, time.Millisecond)
	assert.Equal(t, 1, strings.Count(lines.String(), "no etcd endpoint answers"))
}

func TestPatrol_LogsReasonsInPlainWords(t *testing.T) {
	t.Parallel()
	lines := &lockedWriter{w: &strings.Builder{}}
	fl := newFleet("a", "b", "c")
	patrolled(t, fl, nil, func(t *testing.T, p etcdkit.Patrol) {
		p.LogTo(lines.logger())
		p.ReadBy(func(context.Context, string) error {
			return status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp 10.0.0.1:2379: connect: connection refused"`)
		})
		fl.is("frozen", "b")
		p.Slower("c")
		p.Slower("c")
		time.Sleep(30 * time.Second)
		assert.Contains(t, lines.String(), `endpoint=b error="no answer"`)
		assert.Contains(t, lines.String(), `endpoint=c error="dial tcp 10.0.0.1:2379: connect: connection refused"`)
	})
}
