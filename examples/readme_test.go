package examples_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	link    = regexp.MustCompile(`\]\(([^)#]+)\)`)
	example = regexp.MustCompile(`\./examples/([\w-]+)`)
)

func TestReadme_NamesEveryProgram(t *testing.T) {
	text, programs := read(t), programs(t)
	require.NotEmpty(t, programs)
	_, list, found := strings.Cut(text, "\n## The programs\n")
	require.True(t, found)
	list, _, _ = strings.Cut(list, "\n## ")
	var listed []string
	for line := range strings.Lines(list) {
		if name, ok := strings.CutPrefix(line, "| [`"); ok {
			name, _, _ = strings.Cut(name, "`")
			listed = append(listed, name)
			assert.Contains(t, line, "]("+name+"/main.go)")
		}
	}
	assert.Equal(t, programs, listed, "one line for each program, in the order of the names")

	_, tasks, found := strings.Cut(text, "\n## I want to …\n")
	require.True(t, found)
	tasks, _, _ = strings.Cut(tasks, "\n## ")
	for _, name := range programs {
		assert.Contains(t, tasks, "[`"+name+"`]", "each program is the answer to something")
	}
}

func TestReadme_NamesExistingFiles(t *testing.T) {
	text := read(t)
	for _, match := range link.FindAllStringSubmatch(text, -1) {
		if !strings.Contains(match[1], "://") {
			assert.FileExists(t, filepath.FromSlash(match[1]))
		}
	}
	programs := programs(t)
	for _, match := range example.FindAllStringSubmatch(text, -1) {
		assert.Contains(t, programs, match[1])
	}
}

// programs are the directories of all main packages, in order.
func programs(t *testing.T) []string {
	t.Helper()
	var dirs []string
	require.NoError(t, filepath.WalkDir(".", func(file string, _ fs.DirEntry, err error) error {
		if err != nil || path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly)
		if err == nil && parsed.Name.Name == "main" {
			dirs = append(dirs, filepath.ToSlash(filepath.Dir(file)))
		}
		return err
	}))
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

func read(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	return string(text)
}
