package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// root is the root of the module.
const root = "../../.."

func TestTable_FitsTheCode(t *testing.T) {
	names := map[string]bool{}
	for _, m := range all {
		assert.False(t, names[m.name], "%s is there twice", m.name)
		names[m.name] = true
		assert.Positive(t, m.seeds, m.name)
		_, err := regexp.Compile(m.message)
		assert.NoError(t, err, m.name)
		tests, err := filepath.Glob("../*_test.go")
		require.NoError(t, err)
		found := false
		for _, file := range tests {
			src, err := os.ReadFile(file)
			require.NoError(t, err)
			found = found || bytes.Contains(src, []byte("func "+m.workload+"(t *testing.T)"))
		}
		assert.True(t, found, "%s: no workload %s", m.name, m.workload)
	}
	replace, err := overlay(root, "example.com/m", t.TempDir())
	require.NoError(t, err)
	assert.Greater(t, len(replace), 10)
}

func TestTable_IsInTheDocs(t *testing.T) {
	var want strings.Builder
	printTable(&want)
	page, err := os.ReadFile(filepath.Join(root, "docs", "testing.md"))
	require.NoError(t, err)
	assert.Contains(t, string(page), want.String(), "copy the output of: go run ./internal/sim/mutants -table")
}

func TestInstrument_CallsTheCopy(t *testing.T) {
	src := `package p

import "fmt"

type T[K any] struct{}

func (T[K]) Say(_ int, all ...string) (n int, err error) { return fmt.Println(all) }

func Max[K int](a, b K) K {
	return max(a, b)
}

func run(func()) {
	println("run")
}
`
	out, err := instrument([]byte(src), "example.com/m", []mutant{
		{name: "say-less", old: "fmt.Println(all)", text: "fmt.Println()"},
		{name: "max", old: "max(a, b)", text: "min(a, b)"},
		{name: "run", old: `println("run")`, text: `println("walk")`},
	})
	require.NoError(t, err)
	for _, want := range []string{
		`func (unnamed0 T[K]) Say(unnamed1 int, all ...string) (n int, err error) { if simMutation.Active("say-less") { return unnamed0.Say__say_less(unnamed1, all...) }; return fmt.Println(all) }`,
		`func (T[K]) Say__say_less(_ int, all ...string) (n int, err error) { return fmt.Println() }`,
		"func Max[K int](a, b K) K { if simMutation.Active(\"max\") { return Max__max[K](a, b) };\n",
		"func run(unnamed0 func()) { if simMutation.Active(\"run\") { run__run(unnamed0); return };\n",
		"func run__run(func()) {\n\tprintln(\"walk\")\n}\n",
	} {
		assert.Contains(t, string(out), want)
	}
}

func TestInstrument_RefusesStaleMutants(t *testing.T) {
	const src = "package p\n\nvar x = 1\n\nfunc f() {\n\tx = 2\n\tx = 2\n\tx = 3\n}\n"
	for _, m := range []mutant{
		{name: "twice", old: "x = 2", text: "x = 4"},
		{name: "never", old: "x = 5", text: "x = 4"},
		{name: "outside", old: "x = 1", text: "x = 4"},
		{name: "same", old: "x = 3", text: "x = 3"},
	} {
		_, err := instrument([]byte(src), "example.com/m", []mutant{m})
		assert.ErrorContains(t, err, m.name)
	}
}
