package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/settings"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

// rig is a gateway that runs, and a client of it. Each answer is held against the description.
type rig struct {
	t     testing.TB
	svc   *service
	addr  string
	log   *sink
	http  *http.Client
	token string

	cancel  context.CancelFunc
	stopped func() error // waits for its end, once
}

// sink is a log.
type sink struct {
	mu   sync.Mutex
	text bytes.Buffer
	on   func(message string) // told of each message before the program goes on
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *sink) tell(f func(message string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on = f
}

// teller is a log handler that tells a sink's function of each message, when it is written and no
// lock is held.
type teller struct {
	slog.Handler

	to *sink
}

func (h teller) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	h.to.mu.Lock()
	on := h.to.on
	h.to.mu.Unlock()
	if on != nil {
		on(r.Message)
	}
	return err
}

func (h teller) WithAttrs(a []slog.Attr) slog.Handler { return teller{h.Handler.WithAttrs(a), h.to} }

func (h teller) WithGroup(name string) slog.Handler { return teller{h.Handler.WithGroup(name), h.to} }

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// start runs a gateway in a namespace of its own until the test ends.
func start(tb testing.TB, edit ...func(s *settings.Settings)) *rig {
	tb.Helper()
	set := settings.Default()
	set.Etcd = etcdkit.Config{Endpoints: etcdtest.Endpoints(), Namespace: etcdtest.Prefix(tb)}
	set.Gateway.Listen = "127.0.0.1:0"
	for _, f := range edit {
		f(&set)
	}
	g := &rig{t: tb, log: &sink{}, http: &http.Client{
		Transport:     &http.Transport{DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	log := slog.New(teller{slog.NewJSONHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug}), g.log})
	client, err := etcdkit.Open(tb.Context(), set.Etcd, etcdkit.WithLogger(log))
	require.NoError(tb, err)
	g.svc, err = newService(tb.Context(), client, set, log)
	require.NoError(tb, err)
	l, err := net.Listen("tcp", set.Gateway.Listen)
	require.NoError(tb, err)
	g.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	g.cancel = cancel
	ended := make(chan error, 1)
	go func() {
		err := g.svc.serveOn(ctx, l)
		ended <- joined(err, g.svc.close(context.WithoutCancel(ctx)))
	}()
	g.stopped = sync.OnceValue(func() error { return <-ended })
	tb.Cleanup(func() {
		cancel()
		g.http.CloseIdleConnections()
		_ = g.stopped()
	})
	return g
}

func joined(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// reply is an answer that has arrived.
type reply struct {
	status int
	header http.Header
	body   []byte
	Data   json.RawMessage `json:"data"`
	Error  string          `json:"error"`
	Code   string          `json:"code"`
}

// field is a field of the data, as text.
func (r *reply) field(tb testing.TB, name string) any {
	tb.Helper()
	var all map[string]any
	require.NoError(tb, json.Unmarshal(r.Data, &all), string(r.body))
	return all[name]
}

// text is the data, which must be a string.
func (r *reply) text(tb testing.TB) (s string) {
	tb.Helper()
	require.NoError(tb, json.Unmarshal(r.Data, &s), string(r.body))
	return s
}

// do makes a request. header is names and values, in turn.
func (g *rig) do(method, target, body string, header ...string) *reply {
	g.t.Helper()
	r, err := g.try(method, target, strings.NewReader(body), header...)
	require.NoError(g.t, err)
	return r
}

func (g *rig) try(method, target string, body io.Reader, header ...string) (*reply, error) {
	req, err := http.NewRequestWithContext(g.t.Context(), method, "http://"+g.addr+target, body)
	if err != nil {
		return nil, err
	}
	if method == http.MethodPut || method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	if g.token != "" {
		req.Header.Set("Authorization", "Bearer "+g.token)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := g.http.Do(req)
	if err != nil {
		return nil, err
	}
	return g.read(method, req.URL.EscapedPath(), resp)
}

// read takes an answer in, and holds it against the description.
func (g *rig) read(method, path string, resp *http.Response) (*reply, error) {
	defer resp.Body.Close()
	out := &reply{status: resp.StatusCode, header: resp.Header}
	var err error
	if out.body, err = io.ReadAll(resp.Body); err != nil {
		return nil, err
	}
	described.check(g.t, method, path, out)
	if resp.Header.Get("Content-Type") == "application/json" && method != http.MethodHead {
		err = json.Unmarshal(out.body, out)
	}
	return out, err
}

// raw sends the bytes of a request as they are and reads one answer. A gateway that does not read
// all of a request lets the answer go half a second before it resets the connection, for which a
// client may be too slow; that is tried again.
func (g *rig) raw(text string) *reply {
	g.t.Helper()
	resp, err := g.exchange(text)
	for range 4 {
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			break
		}
		resp, err = g.exchange(text)
	}
	require.NoError(g.t, err)
	method, rest, _ := strings.Cut(text, " ")
	target, _, _ := strings.Cut(rest, " ")
	path, _, _ := strings.Cut(strings.TrimPrefix(target, "http://localhost"), "?")
	out, err := g.read(method, path, resp)
	if resp.Header.Get("Content-Type") == "application/json" {
		require.NoError(g.t, err)
	}
	return out
}

// exchange sends a request and receives the answer.
func (g *rig) exchange(text string) (*http.Response, error) {
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte(text)); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, err
}

// serves asserts that the gateway is well.
func (g *rig) serves() {
	g.t.Helper()
	assert.Equal(g.t, 200, g.do("PUT", "/api/etcd/kv/still/there", `{"value": "yes"}`).status)
	assert.Equal(g.t, "yes", g.do("GET", "/api/etcd/kv/still/there", "").text(g.t))
	assert.Equal(g.t, 200, g.do("GET", "/api/etcd/health", "").status)
}
