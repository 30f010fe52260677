package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/server/v3/embed"
	"sigs.k8s.io/yaml"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// compose is what of the file is looked at.
type compose struct {
	Member   container            `json:"x-member"`
	Services map[string]container `json:"services"`
	Volumes  map[string]any       `json:"volumes"`
	Secrets  map[string]struct {
		File string `json:"file"`
	} `json:"secrets"`
}

type container struct {
	Image string `json:"image"`
	Build struct {
		Context    string `json:"context"`
		Dockerfile string `json:"dockerfile"`
	} `json:"build"`
	Hostname    string            `json:"hostname"`
	Profiles    []string          `json:"profiles"`
	Command     []string          `json:"command"`
	Ports       []string          `json:"ports"`
	Volumes     []string          `json:"volumes"`
	Secrets     []string          `json:"secrets"`
	Environment map[string]string `json:"environment"`
	Grace       string            `json:"stop_grace_period"`
	ReadOnly    bool              `json:"read_only"`
	Healthcheck struct {
		Test     []string `json:"test"`
		Interval string   `json:"interval"`
		Timeout  string   `json:"timeout"`
		Retries  int      `json:"retries"`
		Start    string   `json:"start_period"`
	} `json:"healthcheck"`
	DependsOn map[string]struct {
		Condition string `json:"condition"`
	} `json:"depends_on"`
}

func readCompose(t *testing.T) (c compose) {
	t.Helper()
	text, err := os.ReadFile("../compose.yaml")
	require.NoError(t, err)
	text, err = yaml.YAMLToJSONStrict(text) // no field twice
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &c))
	return c
}

func members() []string { return []string{"etcd-1", "etcd-2", "etcd-3"} }

// flagsOf is the flags of a member, by name.
func flagsOf(t *testing.T, c container) map[string]string {
	t.Helper()
	require.Equal(t, "/usr/local/bin/etcd", c.Command[0])
	out := map[string]string{}
	for _, f := range c.Command[1:] {
		name, value, ok := strings.Cut(strings.TrimPrefix(f, "--"), "=")
		require.True(t, ok && strings.HasPrefix(f, "--"), f)
		require.NotContains(t, out, name)
		out[name] = value
	}
	return out
}

func (c container) checked(t *testing.T) {
	t.Helper()
	assert.Equal(t, "CMD", c.Healthcheck.Test[0], "there is no shell in the image")
	for _, text := range []string{c.Healthcheck.Interval, c.Healthcheck.Timeout, c.Healthcheck.Start, c.Grace} {
		d, err := time.ParseDuration(text)
		require.NoError(t, err)
		assert.Positive(t, d)
	}
	assert.Positive(t, c.Healthcheck.Retries)
}

func TestCompose_IsClusterOfThree(t *testing.T) {
	t.Parallel()
	c := readCompose(t)
	assert.ElementsMatch(t, append(members(), "gateway"), slices.Collect(maps.Keys(c.Services)))
	assert.ElementsMatch(t, members(), slices.Collect(maps.Keys(c.Volumes)), "each has a volume with a name")
	var ports []string
	for _, name := range members() {
		m, flags := c.Services[name], flagsOf(t, c.Services[name])
		assert.Equal(t, "gcr.io/etcd-development/etcd:v"+version.Version, m.Image, "the version that the examples are built with")
		m.checked(t)
		assert.Equal(t, "/usr/local/bin/etcdctl", m.Healthcheck.Test[1])
		assert.Contains(t, m.Healthcheck.Test, "--endpoints=http://127.0.0.1:2379")
		assert.Equal(t, name, m.Hostname)
		assert.Equal(t, name, flags["name"])
		require.Len(t, m.Volumes, 1)
		assert.Equal(t, name+":"+path.Dir(flags["data-dir"]), m.Volumes[0], "the data is in the volume")
		require.Len(t, m.Ports, 1)
		host, inside, _ := strings.Cut(strings.TrimPrefix(m.Ports[0], "127.0.0.1:"), ":")
		assert.Equal(t, "127.0.0.1:"+host+":"+inside, m.Ports[0], "for this machine only")
		assert.Equal(t, "http://0.0.0.0:"+inside, flags["listen-client-urls"])
		assert.Equal(t, "http://"+name+":"+inside, flags["advertise-client-urls"])
		assert.Equal(t, "http://"+name+":2380", flags["initial-advertise-peer-urls"])
		assert.Contains(t, strings.Split(flags["initial-cluster"], ","), name+"="+flags["initial-advertise-peer-urls"])
		assert.Len(t, strings.Split(flags["initial-cluster"], ","), 3)
		assert.Empty(t, m.Profiles)
		ports = append(ports, host)
	}
	text, err := os.ReadFile("../compose.yaml")
	require.NoError(t, err)
	assert.Contains(t, string(text), fmt.Sprintf("export ETCD_ENDPOINTS=http://localhost:%s,http://localhost:%s,http://localhost:%s", ports[0], ports[1], ports[2]))
}

func TestCompose_FlagsAreAcceptedByEtcd(t *testing.T) {
	t.Parallel()
	c := readCompose(t)
	common := flagsOf(t, c.Services[members()[0]])
	for _, name := range members() {
		cfg, set := embed.NewConfig(), flag.NewFlagSet(name, flag.ContinueOnError)
		cfg.AddFlags(set)
		require.NoError(t, set.Parse(c.Services[name].Command[1:]))
		assert.Zero(t, set.NArg(), "everything is a flag")
		assert.Equal(t, name, cfg.Name)
		maps.DeleteFunc(common, func(flag, value string) bool { return flagsOf(t, c.Services[name])[flag] != value })
	}
	// The addresses have to be others here; what the members have in common goes to three real
	// servers as it is.
	var flags []string
	for _, name := range []string{"initial-cluster-token", "auto-compaction-mode", "auto-compaction-retention", "quota-backend-bytes"} {
		require.Contains(t, common, name)
		flags = append(flags, "--"+name+"="+common[name])
	}
	cluster := etcdtest.StartCluster(t, 3, etcdtest.WithFlags(flags...))
	cli := cluster.Client(t)
	for _, ep := range cluster.Endpoints() {
		status, err := cli.Status(t.Context(), ep)
		require.NoError(t, err)
		assert.Equal(t, common["quota-backend-bytes"], strconv.FormatInt(status.DbSizeQuota, 10))
		assert.Equal(t, version.Version, status.Version)
	}
}

func TestCompose_StartsGatewayWithValidArguments(t *testing.T) {
	c := readCompose(t)
	g := c.Services["gateway"]
	g.checked(t)
	assert.Equal(t, []string{"gateway"}, g.Profiles, "only who asks for it has it")
	assert.True(t, g.ReadOnly)
	for _, name := range members() {
		assert.Equal(t, "service_healthy", g.DependsOn[name].Condition)
		assert.Contains(t, strings.Split(g.Environment["ETCD_ENDPOINTS"], ","), flagsOf(t, c.Services[name])["advertise-client-urls"])
	}
	assert.True(t, strings.HasPrefix(g.Ports[0], "127.0.0.1:"))

	for name, value := range g.Environment {
		t.Setenv(name, value)
	}
	from, to, _ := strings.Cut(strings.TrimSuffix(g.Volumes[0], ":ro"), ":")
	args := strings.Split(strings.ReplaceAll(strings.Join(g.Command, "\n"), to, filepath.Join("..", from)), "\n")
	set, does, err := configure(args, os.Stderr)
	require.NoError(t, err)
	assert.Equal(t, mode{}, does)
	assert.Len(t, set.Etcd.Endpoints, 3)
	assert.Equal(t, "/run/secrets/"+g.Secrets[0], set.Gateway.TokenFile)
	assert.NotEmpty(t, c.Secrets[g.Secrets[0]].File)
	assert.Equal(t, ":8080", set.Gateway.Listen)
	grace, err := time.ParseDuration(g.Grace)
	require.NoError(t, err)
	assert.Greater(t, grace, time.Duration(set.Gateway.Limits.Shutdown)+20*time.Second)

	assert.Equal(t, "/gateway", g.Healthcheck.Test[1])
	asked, does, err := configure(g.Healthcheck.Test[2:], os.Stderr)
	require.NoError(t, err)
	assert.Equal(t, mode{probe: true}, does)
	assert.Equal(t, set.Gateway.Listen, asked.Gateway.Listen)
}

func TestCompose_KeepsTokenOutOfImageAndHistory(t *testing.T) {
	t.Parallel()
	c := readCompose(t)
	name := path.Base(strings.TrimSuffix(c.Secrets[c.Services["gateway"].Secrets[0]].File, "}"))
	for file, pattern := range map[string]string{".dockerignore": "**/" + name, ".gitignore": name} {
		text, err := os.ReadFile(filepath.Join("..", c.Services["gateway"].Build.Context, file))
		require.NoError(t, err)
		assert.Contains(t, strings.Split(string(text), "\n"), pattern, file)
	}
}

func TestDockerfile_HasTwoStagesAndNoRoot(t *testing.T) {
	t.Parallel()
	b := readCompose(t).Services["gateway"].Build
	root := filepath.Join("..", b.Context)
	text, err := os.ReadFile(filepath.Join(root, b.Dockerfile))
	require.NoError(t, err)
	module, err := os.ReadFile("../go.mod")
	require.NoError(t, err)
	var from, users []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		switch fields[0] {
		case "FROM":
			from = append(from, fields[1])
		case "USER":
			users = append(users, fields[1])
		case "COPY":
			for _, source := range fields[1 : len(fields)-1] {
				if len(from) == 1 {
					_, err := os.Stat(filepath.Join(root, source))
					assert.NoError(t, err)
				}
			}
		case "ENTRYPOINT":
			assert.Equal(t, `["/gateway"]`, fields[1])
		}
	}
	require.Len(t, from, 2)
	assert.Contains(t, string(module), "\ngo "+strings.TrimPrefix(from[0], "golang:"), "the compiler that the module asks for")
	assert.Contains(t, from[1], "distroless/static")
	assert.Equal(t, []string{"65532:65532"}, users)
}
