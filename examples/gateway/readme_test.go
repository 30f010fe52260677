package main

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/examples/settings"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// curl is a command line as README.md has them, read as a shell and curl read it.
type curl struct {
	method, target, body string
	header               []string
}

var shellWord = regexp.MustCompile(`'[^']*'|[^ ']+`)

func parseCurl(t *testing.T, line string) (c curl) {
	t.Helper()
	words := shellWord.FindAllString(line, -1)
	require.Equal(t, "curl", words[0], line)
	for i := 1; i < len(words); i++ {
		next := func() string {
			i++
			require.Less(t, i, len(words), line)
			return strings.Trim(words[i], "'")
		}
		switch word := strings.Trim(words[i], "'"); word {
		case "-X":
			c.method = next()
		case "-H":
			name, value, ok := strings.Cut(next(), ": ")
			require.True(t, ok, line)
			c.header = append(c.header, name, value)
		case "--json":
			c.body = next()
		default:
			target, ok := strings.CutPrefix(word, "localhost:8080")
			require.True(t, ok && c.target == "", "%s: unexpected %s", line, word)
			c.target = target
		}
	}
	switch {
	case c.method != "":
	case c.body != "":
		c.method = http.MethodPost
	default:
		c.method = http.MethodGet
	}
	return c
}

// variable matches what differs from run to run.
var variable = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[0-9:.]+Z"|"http://127\.0\.0\.1:\d+"|"version":"[^"]*"`)

func TestGateway_ReadmeShowsRealAnswers(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	server := etcdtest.Start(t)
	g := start(t, func(s *settings.Settings) {
		s.Etcd.Endpoints, s.Etcd.Namespace = server.Endpoints(), defaultNamespace
	})
	lines, shown := strings.Split(string(text), "\n"), map[string]bool{}
	for i, line := range lines {
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			continue
		}
		c := parseCurl(t, command)
		got := g.do(c.method, c.target, c.body, c.header...)
		want := variable.ReplaceAllString(lines[i+1], `"..."`)
		assert.Equal(t, want, variable.ReplaceAllString(strings.TrimSpace(string(got.body)), `"..."`),
			"line %d of README.md: %s", i+1, command)
		path, _, _ := strings.Cut(c.target, "?")
		shown[pathOf(path)] = true
	}
	statuses := regexp.MustCompile(`(?m)^\| ([0-9, ]+) \|`).FindAllStringSubmatch(string(text), -1)
	var explained []string
	for _, row := range statuses {
		explained = append(explained, strings.Split(row[1], ", ")...)
	}
	for _, r := range plainRoutes {
		assert.True(t, shown[r.pattern] || strings.Contains(string(text), r.pattern) || strings.HasSuffix(r.pattern, "/kv/prefix") ||
			strings.HasSuffix(r.pattern, "/kv/cas"), "README.md does not show %s", r.pattern)
	}
	for name := range described.at(map[string]any(described), "components", "responses") {
		for _, status := range statusesOf(name) {
			assert.Contains(t, explained, status, "README.md does not explain %s, %s", status, name)
		}
	}
}

// statusesOf returns the statuses that are described by a response of that name.
func statusesOf(name string) (out []string) {
	for _, route := range described.routes() {
		method, path, _ := strings.Cut(route, " ")
		operation := described.at(map[string]any(described), "paths", path, strings.ToLower(method))
		responses, _ := operation["responses"].(map[string]any)
		for status, response := range responses {
			if ref := fmt.Sprint(response); strings.Contains(ref, "#/components/responses/"+name+"]") && status != "500" {
				out = append(out, status)
			}
		}
	}
	return out
}
