package integration_test

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const repository = "../.."

// pages are the documents that people read, by their path in the repository.
func pages(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "examples/*.md"} {
		files, err := filepath.Glob(filepath.Join(repository, pattern))
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			name, err := filepath.Rel(repository, file)
			require.NoError(t, err)
			out[filepath.ToSlash(name)] = string(text)
		}
	}
	require.Contains(t, out, "docs/security.md")
	return out
}

// block is a fenced block of code.
type block struct {
	info, text string
	line       int
}

// fences takes a page apart: its text without blocks of code, and those.
func fences(page string) (text string, blocks []block) {
	var rest, code strings.Builder
	open, at := "", 0
	n := 0
	for line := range strings.Lines(page) {
		n++
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && open == "":
			open, at = "```"+fence, n
		case isFence:
			blocks = append(blocks, block{info: strings.TrimPrefix(open, "```"), text: code.String(), line: at})
			code.Reset()
			open = ""
		case open != "":
			code.WriteString(line)
		default:
			rest.WriteString(line)
		}
	}
	return rest.String(), blocks
}

var (
	codeSpan = regexp.MustCompile("`[^`]+`")
	mdLink   = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are the names by which the headings of a page can be linked to.
func anchors(page string) (out []string) {
	text, _ := fences(page)
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		slug := notSlug.ReplaceAllString(strings.ToLower(strings.TrimSpace(m[1])), "")
		out = append(out, strings.ReplaceAll(slug, " ", "-"))
	}
	return out
}

func TestDocs_LinksResolve(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for name, page := range all {
		text, _ := fences(page)
		for _, m := range mdLink.FindAllStringSubmatch(codeSpan.ReplaceAllString(text, ""), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			to := name
			if target != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(name), target))
				_, err := os.Stat(filepath.Join(repository, to))
				assert.NoError(t, err, "%s links to %s", name, m[1])
			}
			if anchor != "" {
				assert.Contains(t, anchors(all[to]), anchor, "%s links to %s", name, m[1])
			}
		}
	}
}

// exported is what a package has, by name; members are the methods and fields of its types.
type exported struct {
	names   map[string]bool
	members map[string]map[string]bool // by type
	embeds  map[string][]string        // types by type, as far as they are of the same package
}

// exportsOf reads the packages that users import.
func exportsOf(t *testing.T) map[string]*exported {
	t.Helper()
	out := map[string]*exported{}
	for _, dir := range []string{".", "kv", "lease", "watch", "lock", "cache", "config", "discovery", "etcdtest"} {
		e := &exported{names: map[string]bool{}, members: map[string]map[string]bool{}, embeds: map[string][]string{}}
		files, err := filepath.Glob(filepath.Join(repository, dir, "*.go"))
		require.NoError(t, err)
		name := filepath.Base(dir)
		if dir == "." {
			name = "etcdkit"
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			e.add(f)
		}
		out[name] = e
	}
	return out
}

func (e *exported) add(f *ast.File) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				e.names[d.Name.Name] = true
			} else {
				e.member(baseType(d.Recv.List[0].Type), d.Name.Name)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					e.names[s.Name.Name] = true
					e.addType(s)
				case *ast.ValueSpec:
					for _, n := range s.Names {
						e.names[n.Name] = true
					}
				}
			}
		}
	}
}

func (e *exported) addType(s *ast.TypeSpec) {
	var fields *ast.FieldList
	switch u := s.Type.(type) {
	case *ast.StructType:
		fields = u.Fields
	case *ast.InterfaceType:
		fields = u.Methods
	default:
		return
	}
	for _, f := range fields.List {
		for _, n := range f.Names {
			e.member(s.Name.Name, n.Name)
		}
		if len(f.Names) == 0 {
			e.embeds[s.Name.Name] = append(e.embeds[s.Name.Name], baseType(f.Type))
		}
	}
}

func (e *exported) member(typ, name string) {
	if e.members[typ] == nil {
		e.members[typ] = map[string]bool{}
	}
	e.members[typ][name] = true
}

// has reports whether a type has a member, of its own or of what it embeds.
func (e *exported) has(typ, member string) bool {
	return e.members[typ][member] || slices.ContainsFunc(e.embeds[typ], func(in string) bool { return e.has(in, member) })
}

// baseType is the name of a type without stars, type arguments and package.
func baseType(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.StarExpr:
		return baseType(x.X)
	case *ast.IndexExpr:
		return baseType(x.X)
	case *ast.IndexListExpr:
		return baseType(x.X)
	}
	return ""
}

var (
	ofPackage = regexp.MustCompile(`^(etcdkit|etcdtest|kv|lease|watch|lock|cache|config|discovery)\.([A-Z]\w*)(?:\.([A-Z]\w*))?`)
	ofType    = regexp.MustCompile(`^([A-Z]\w*)\.([A-Z]\w*)`)
)

func TestDocs_NamesExist(t *testing.T) {
	t.Parallel()
	all := exportsOf(t)
	for page, text := range pages(t) {
		text, _ = fences(text)
		for _, span := range codeSpan.FindAllString(text, -1) {
			span = strings.Trim(span, "`")
			if m := ofPackage.FindStringSubmatch(span); m != nil {
				e := all[m[1]]
				assert.True(t, e.names[m[2]], "%s: %s", page, span)
				assert.True(t, m[3] == "" || e.has(m[2], m[3]), "%s: %s", page, span)
				continue
			}
			if m := ofType.FindStringSubmatch(span); m != nil {
				known := false
				for _, e := range all {
					known = known || e.names[m[1]] && e.has(m[1], m[2])
				}
				assert.True(t, known, "%s: %s", page, span)
			}
		}
	}
}

// programs are the blocks of Go code that are meant to compile, each a file of its own. Others say
// more than "go".
func programs(t *testing.T) map[string]block {
	t.Helper()
	out := map[string]block{}
	for name, page := range pages(t) {
		if !strings.HasPrefix(name, "docs/") {
			continue
		}
		_, blocks := fences(page)
		for _, b := range blocks {
			if b.info == "go" {
				out[name+":"+strconv.Itoa(b.line)] = b
			}
		}
	}
	require.NotEmpty(t, out)
	return out
}

func TestDocs_GoCodeCompiles(t *testing.T) {
	t.Parallel()
	fset := token.NewFileSet()
	files, imports := map[string]*ast.File{}, map[string]bool{}
	for name, b := range programs(t) {
		f, err := parser.ParseFile(fset, name, b.text, parser.ParseComments)
		require.NoError(t, err)
		for _, i := range f.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			require.NoError(t, err)
			imports[path] = true
		}
		files[name] = f
		formatted, err := format.Source([]byte(b.text))
		require.NoError(t, err, name)
		assert.Equal(t, string(formatted), b.text, "%s is not formatted", name)
	}
	from := importer.ForCompiler(fset, "gc", compiled(t, imports))
	for name, f := range files {
		cfg := types.Config{Importer: from, Error: func(err error) { t.Errorf("%v", err) }}
		_, _ = cfg.Check(name, fset, []*ast.File{f}, nil) // each error was told
	}
}

// compiled finds what is known of imported packages, which the go command compiles where it has not
// yet.
func compiled(t *testing.T, imports map[string]bool) func(path string) (io.ReadCloser, error) {
	t.Helper()
	args := []string{"list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}"}
	for path := range imports {
		args = append(args, path)
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = repository
	var problems bytes.Buffer
	cmd.Stderr = &problems
	list, err := cmd.Output()
	require.NoError(t, err, "%s", &problems)
	files := map[string]string{}
	for line := range strings.Lines(string(list)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		files[path] = file
	}
	return func(path string) (io.ReadCloser, error) { return os.Open(files[path]) }
}
