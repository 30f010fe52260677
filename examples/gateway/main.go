// Gateway is a REST service over etcd: keys and values, services and their instances, health and metrics, with nothing but
// net/http and etcdkit.
//
//	go run ./examples/gateway                                  # with an etcd of its own
//	ETCD_ENDPOINTS=http://localhost:2379 go run ./examples/gateway
//	go run ./examples/gateway -config examples/etcd.yaml       # everything that can be set, and its defaults
//
// Then, in another terminal:
//
//	curl --json '{"value": "Ada"}' -X PUT localhost:8080/api/etcd/kv/users/42
//	curl localhost:8080/api/etcd/kv/users/42
//	curl 'localhost:8080/api/etcd/kv/users/42?cached=true'
//	curl --json '{"value": "a session", "ttlSeconds": 60}' -X PUT localhost:8080/api/etcd/kv/sessions/1
//	curl --json '{"expectedValue": "Ada", "newValue": "Ada Lovelace"}' localhost:8080/api/etcd/kv/cas/users/42
//	curl -i localhost:8080/api/etcd/kv/users/42                # has an ETag, such as "7": only if it is still that,
//	curl -X PUT -H 'If-Match: "7"' --json '{"value": "Grace"}' localhost:8080/api/etcd/kv/users/42
//	curl 'localhost:8080/api/etcd/kv/prefix/users/?limit=100'
//	curl -X DELETE localhost:8080/api/etcd/kv/users/42
//	curl -X PUT --json '{"value": "1"}' 'localhost:8080/api/etcd/kv?key=/a//b/../c'   # a key that a path cannot carry
//	curl 'localhost:8080/api/etcd/kv?key=/a//b/../c'
//
//	curl --json '{"host": "10.0.0.7", "port": 8080}' localhost:8080/api/etcd/services/orders/instances/a
//	curl localhost:8080/api/etcd/services/orders/instances
//	curl localhost:8080/api/etcd/services
//	curl -X DELETE localhost:8080/api/etcd/services/orders/instances/a
//
//	curl localhost:8080/api/etcd/health
//	curl localhost:8080/api/etcd/health/cluster
//	curl localhost:8080/metrics
//	curl localhost:8080/openapi.yaml                           # all of it, described
//
// Keys are below one namespace: that of ETCD_NAMESPACE, that of the file, or "myapp/" without either. No request leaves it. A
// file that names none opens the whole of etcd, which the log warns of.
//
// # Who may call
//
// Without a token the gateway listens on the loopback only, and answers to no other name than that of the loopback, so that
// no web page can reach it through the browser of whoever runs it. With one (-token-file) every request but those for
// health has to carry it, as "Authorization: Bearer ...". It does not speak TLS itself: put what does in front of it where
// the network is not trusted.
//
// # What is answered
//
// Everything but health, metrics and the description is {"success": …, "data": …, "error": …, "code": …}. 503 says that etcd
// did not answer and that nothing was changed; 504 says that a write may have been carried out, or not. A conditional
// request that came too late is 412, a compare-and-swap that did is 409.
//
// # How it ends
//
// On Ctrl-C or SIGTERM it takes no more requests and finishes those under way; then it closes what it watches, takes back
// what it has registered, and disconnects, in this order. A second Ctrl-C ends it at once: what it has registered goes with its
// TTL then.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/examples/settings"
)

func main() {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		signal.Stop(signals) // before anybody sees that the program stops: the second signal ends it at once
		stop()
	}()
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) { // Ctrl-C before it has listened is no failure
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

// run is the program. It returns when ctx has ended and everything is closed.
func run(ctx context.Context, args []string, out io.Writer) error {
	set, does, err := configure(args, out)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil // it was told
	case err != nil:
		return err
	case does.probe:
		return check(ctx, set.Gateway.Listen)
	}
	log := slog.New(slog.NewJSONHandler(out, nil))
	stopServer := func() {}
	if does.embed {
		if set.Etcd.Endpoints, stopServer, err = embedded.Endpoints(ctx); err != nil {
			return err
		}
		log.InfoContext(ctx, "no etcd is configured: this process is one, for as long as it runs")
	}
	defer stopServer()
	client, err := etcdkit.Open(ctx, set.Etcd, etcdkit.WithLogger(log))
	if err != nil {
		return err
	}
	svc, err := newService(ctx, client, set, log)
	if err != nil {
		_ = client.Close() // err says what matters
		return err
	}
	return serve(ctx, svc)
}

// defaultNamespace is what the gateway is confined to where neither a file nor the environment says anything.
const defaultNamespace = "myapp/"

// todo is what the program is to do.
type todo struct {
	probe bool // ask another gateway, and no more
	embed bool // start an etcd: there is neither a file nor a variable that could name one
}

// configure is what the arguments, the environment and the file that they name say.
func configure(args []string, out io.Writer) (set settings.Settings, does todo, err error) {
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	flags.SetOutput(out)
	file := flags.String("config", os.Getenv(embedded.ConfigFile), "configuration `file`, such as examples/etcd.yaml")
	listen := flags.String("listen", "", "`address` to listen on, instead of the file's")
	token := flags.String("token-file", "", "`file` with the token that requests have to carry, instead of the file's")
	flags.BoolVar(&does.probe, "probe", false, "ask a gateway that runs here for its health, and exit")
	if err := flags.Parse(args); err != nil {
		return set, does, err
	}
	if flags.NArg() > 0 {
		return set, does, fmt.Errorf("what is %q? There are only flags", flags.Arg(0))
	}
	set = settings.Default()
	set.Etcd.Namespace = defaultNamespace
	if *file != "" {
		if set, err = settings.Load(*file); err != nil {
			return set, does, err
		}
	}
	if *listen != "" {
		set.Gateway.Listen = *listen
	}
	if *token != "" {
		set.Gateway.TokenFile = *token
	}
	set.Etcd, err = set.Etcd.WithEnv()
	does.embed = *file == "" && set.Etcd.Endpoints == nil && set.Etcd.DiscoverySRV == ""
	return set, does, err
}

// check asks a gateway for its health: what a container without a shell and curl is checked with.
func check(ctx context.Context, listen string) error {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+reachable(listen)+"/api/etcd/health", http.NoBody)
	if err != nil {
		return err
	}
	direct := &http.Transport{DisableKeepAlives: true} // whatever proxy the environment names: it is this machine
	resp, err := direct.RoundTrip(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not healthy: %s", resp.Status)
	}
	return nil
}
