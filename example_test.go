package etcdkit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/lock"
)

// A program opens one client, and puts and gets keys with it.
func Example() {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	c, err := etcdkit.Open(ctx, etcdkit.Config{
		Endpoints: endpoints(),
		Namespace: "example/quickstart/",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	if _, err := c.KV().Put(ctx, "greeting", []byte("hello")); err != nil {
		fmt.Println(err)
		return
	}
	e, err := c.KV().Get(ctx, "greeting")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s: %s\n", e.Key, e.Value)
	// Output: greeting: hello
}

// The error of Open tells why each endpoint could not be reached.
func ExampleOpen_refused() {
	_, err := etcdkit.Open(context.Background(), etcdkit.Config{Endpoints: []string{"127.0.0.1:1"}})
	fmt.Println(errors.Is(err, etcdkit.ErrUnavailable))
	fmt.Println(err)
	// Output:
	// true
	// etcdkit: open: etcd unavailable: 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused
}

// OpenLazy returns a client even if etcd is down.
func ExampleOpenLazy() {
	c, err := etcdkit.OpenLazy(etcdkit.Config{Endpoints: []string{"127.0.0.1:1"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	ctx, stop := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer stop()
	_, err = c.KV().Put(ctx, "k", []byte("v"))
	fmt.Println("unavailable:", errors.Is(err, etcdkit.ErrUnavailable))
	fmt.Println("safe to retry:", etcdkit.SafeToRetry(err))
	// Output:
	// unavailable: true
	// safe to retry: true
}

// LoadConfig reads a YAML file.
func ExampleLoadConfig() {
	dir, err := os.MkdirTemp("", "etcdkit")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "etcd.yaml")
	const file = `
endpoints: [https://etcd-1:2379, https://etcd-2:2379]
username: orders
password: correct horse
namespace: orders/
readTimeout: 2s
`
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	cfg, err := etcdkit.LoadConfig(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(cfg.Endpoints, cfg.Username, cfg.Password, cfg.Namespace, cfg.ReadTimeout)
	// Output: [https://etcd-1:2379 https://etcd-2:2379] orders [redacted] orders/ 2s
}

// ParseConfig rejects unknown fields. Its errors never quote a value.
func ExampleParseConfig() {
	cfg, err := etcdkit.ParseConfig([]byte(`{"endpoints": ["https://etcd-1:2379"], "readTimeout": "2s"}`))
	fmt.Println(cfg.Endpoints, cfg.ReadTimeout, err)
	_, err = etcdkit.ParseConfig([]byte("endpoints: [https://etcd-1:2379]\npasword: correct horse\n"))
	fmt.Println(errors.Is(err, etcdkit.ErrInvalid))
	fmt.Println(err)
	// Output:
	// [https://etcd-1:2379] 2s <nil>
	// true
	// etcdkit: parse config: invalid argument: YAML: unknown field "pasword"
}

// The configuration of etcd is one section of a program's own file.
func ExampleUnmarshalStrict() {
	type settings struct {
		Listen string         `json:"listen"`
		Etcd   etcdkit.Config `json:"etcd"`
	}
	s := settings{Listen: ":8080"} // the default
	err := etcdkit.UnmarshalStrict([]byte(`
etcd:
  endpoints: [https://etcd-1:2379]
  namespace: orders/
`), &s)
	fmt.Println(s.Listen, s.Etcd.Endpoints, s.Etcd.Namespace, err)
	fmt.Println(etcdkit.UnmarshalStrict([]byte("lisen: :9090"), &s))
	// Output:
	// :8080 [https://etcd-1:2379] orders/ <nil>
	// etcdkit: unmarshal: invalid argument: YAML: unknown field "lisen"
}

// A Secret is not revealed by fmt, log/slog or encoding/json.
func ExampleNewSecret() {
	cfg := etcdkit.Config{Username: "orders", Password: etcdkit.NewSecret("correct horse")}
	fmt.Println(cfg.Username, cfg.Password)
	text, err := json.Marshal(cfg.Password)
	fmt.Println(string(text), err)
	fmt.Println(cfg.Password.Reveal(), cfg.Password == etcdkit.NewSecret("correct horse"))
	// Output:
	// orders [redacted]
	// "[redacted]" <nil>
	// correct horse true
}

// The endpoints can follow the members of the cluster, or be set by the program.
func ExampleClient_SetEndpoints() {
	ctx := context.Background()
	c, err := etcdkit.Open(ctx, etcdkit.Config{Endpoints: endpoints()}, etcdkit.WithEndpointSync(10*time.Minute))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	fmt.Println(c.SetEndpoints(endpoints()...))
	err = c.SetEndpoints("https://etcd-1:2379") // the client was opened without TLS
	fmt.Println(errors.Is(err, etcdkit.ErrInvalid))
	_, err = c.KV().Exists(ctx, "k")
	fmt.Println(err)
	// Output:
	// <nil>
	// true
	// <nil>
}

// ConfigFromEnv reads the environment that the deployment has set.
func ExampleConfigFromEnv() {
	_ = os.Setenv("ETCD_NAMESPACE", "orders/")
	_ = os.Setenv("ETCD_READ_TIMEOUT", "2s")
	defer func() {
		_ = os.Unsetenv("ETCD_NAMESPACE")
		_ = os.Unsetenv("ETCD_READ_TIMEOUT")
	}()
	cfg, err := etcdkit.ConfigFromEnv()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(cfg.Namespace, cfg.ReadTimeout)
	// Output: orders/ 2s
}

// WithEnv replaces the settings that the environment has.
func ExampleConfig_WithEnv() {
	_ = os.Setenv("ETCD_ENDPOINTS", "https://etcd-1:2379,https://etcd-2:2379")
	defer func() { _ = os.Unsetenv("ETCD_ENDPOINTS") }()

	cfg := etcdkit.Config{Endpoints: []string{"localhost:2379"}, Namespace: "orders"} // or from LoadConfig
	cfg, err := cfg.WithEnv()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(cfg.Endpoints, cfg.Namespace)
	// Output: [https://etcd-1:2379 https://etcd-2:2379] orders
}

// A client of a namespace uses the same connection.
func ExampleClient_Namespace() {
	ctx := context.Background()
	c, err := etcdkit.Open(ctx, etcdkit.Config{Endpoints: endpoints(), Namespace: "example/app/"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	eu := c.Namespace("eu") // the same connection, below example/app/eu/
	if _, err := eu.KV().Put(ctx, "limit", []byte("10")); err != nil {
		fmt.Println(err)
		return
	}
	found, err := c.KV().Exists(ctx, "eu/limit")
	fmt.Println(found, err)
	// Output: true <nil>
}

// Health checks the quorum and each member.
func ExampleClient_Health() {
	c, err := etcdkit.Open(context.Background(), etcdkit.Config{Endpoints: endpoints()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	h, err := c.Health(context.Background())
	if err != nil {
		fmt.Println("unhealthy:", err)
	}
	for _, m := range h.Members {
		fmt.Println("reachable:", m.Reachable, "leader:", m.Leader, "lag:", m.RaftLag)
	}
	fmt.Println("quorum:", h.Quorum, "alarms:", len(h.Alarms))
	// Output:
	// reachable: true leader: true lag: 0
	// quorum: true alarms: 0
}

// ReadyHandler answers readiness probes.
func ExampleClient_ReadyHandler() {
	c, err := etcdkit.Open(context.Background(), etcdkit.Config{Endpoints: endpoints()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	mux := http.NewServeMux()
	mux.Handle("GET /ready", c.ReadyHandler())

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/ready", http.NoBody))
	fmt.Print(w.Code, " ", w.Body)
	// Output: 200 {"ready":true}
}

// A program that has a client of client/v3 prepares its configuration, wraps it and continues to own
// it.
func ExampleWrap() {
	cfg := clientv3.Config{Endpoints: endpoints(), Logger: zap.NewNop()}
	if err := etcdkit.Harden(&cfg); err != nil {
		fmt.Println(err)
		return
	}
	cli, err := clientv3.New(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cli.Close()

	c, err := etcdkit.Wrap(cli, etcdkit.WithNamespace("example/wrapped/"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, err = c.KV().Put(context.Background(), "k", []byte("v"))
	fmt.Println(err)
	// Output: <nil>
}

// Diagnose checks the common causes of failures and lists the problems that it finds.
func ExampleClient_Diagnose() {
	c, err := etcdkit.Open(context.Background(), etcdkit.Config{Endpoints: endpoints(), Namespace: "example/diagnosed/"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	r := c.Diagnose(context.Background())
	fmt.Println("healthy:", r.OK(), "keys:", r.Keys)
	fmt.Println("report has several lines:", strings.Count(r.String(), "\n") > 10)
	// Output:
	// healthy: true keys: 0
	// report has several lines: true
}

// Metrics yields the metrics of all parts of the client, for any monitoring system.
func ExampleClient_Metrics() {
	ctx := context.Background()
	client, err := etcdkit.Open(ctx, etcdkit.Config{Endpoints: endpoints(), Namespace: "example/metrics/"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	held, err := client.Locks().Mutex("nightly").Lock(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	for m := range client.Metrics() {
		if m.Name == "etcdkit_lock_acquired_total" || m.Name == "etcdkit_lock_held" {
			fmt.Println(m.Kind, m.Name, m.Value)
		}
	}
	fmt.Println(held.Release(ctx))
	// Output:
	// counter etcdkit_lock_acquired_total 1
	// gauge etcdkit_lock_held 1
	// <nil>
}

// An observer measures how long operations take.
func ExampleObserver() {
	observer := etcdkit.Observer{
		Operation: func(_ context.Context, op etcdkit.Operation) (context.Context, func(etcdkit.OperationResult)) {
			began := time.Now()
			return nil, func(r etcdkit.OperationResult) {
				if op.Package == "lock" {
					fmt.Println(op.Name, op.Target, r.Err, time.Since(began) < time.Minute)
				}
			}
		},
	}
	ctx := context.Background()
	cfg := etcdkit.Config{Endpoints: endpoints(), Namespace: "example/observer/"}
	client, err := etcdkit.Open(ctx, cfg, etcdkit.WithObserver(observer))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	err = client.Locks().Mutex("nightly").Do(ctx, func(context.Context, *lock.Held) error { return nil })
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// wait nightly <nil> true
	// hold nightly <nil> true
}

// SafeToRetry reports whether a failed call provably changed nothing.
func ExampleSafeToRetry() {
	ctx := context.Background()
	c, err := etcdkit.Open(ctx, etcdkit.Config{Endpoints: endpoints(), Namespace: "example/retry/"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, err = c.KV().Replace(ctx, "k", []byte("v"), 1) // refused: the key does not exist
	fmt.Println(etcdkit.SafeToRetry(err))
	fmt.Println(etcdkit.SafeToRetry(context.DeadlineExceeded)) // the request may have been sent
	// Output:
	// true
	// false
}

// The error of Open holds an EndpointError for each endpoint.
func ExampleEndpointError() {
	_, err := etcdkit.Open(context.Background(), etcdkit.Config{Endpoints: []string{"127.0.0.1:1"}})
	if e, ok := errors.AsType[*etcdkit.EndpointError](err); ok {
		fmt.Println(e.Endpoint)
	}
	// Output: 127.0.0.1:1
}

// WithCredentials supplies the user and password of each login, so that they can rotate.
func ExampleWithCredentials() {
	ctx := context.Background()
	cfg := etcdkit.Config{Endpoints: endpoints(), Namespace: "example/credentials/"}
	c, err := etcdkit.Open(ctx, cfg, etcdkit.WithCredentials(func(context.Context) (user, password string, err error) {
		fmt.Println("log in")
		return "orders", "correct horse", nil // from a secret store
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, err = c.KV().Put(ctx, "k", []byte("v"))
	fmt.Println(err)
	// Output:
	// log in
	// <nil>
}

// Raw returns a client of client/v3, for everything that the packages do not have.
func ExampleClient_Raw() {
	ctx := context.Background()
	c, err := etcdkit.Open(ctx, etcdkit.Config{Endpoints: endpoints()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	resp, err := c.Raw().MemberList(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("has members:", len(resp.Members) > 0)
	// Output: has members: true
}
