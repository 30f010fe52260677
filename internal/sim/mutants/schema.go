package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
)

// The mutants of all files are compiled into one binary. A function that has mutants begins with a
// check of which mutant is active, and calls the mutated copy of itself if it is one of its own:
//
//	func (p position) nextRevision() int64 { if mutation.Active("resume") { return p.nextRevision__resume() }; return p.rev + 1 }
//
// The package mutation exists in the overlay only.
const (
	mutationPackage = "internal/sim/mutation"
	mutationAlias   = "simMutation"
	mutantVariable  = "ETCDKIT_MUTANT"
)

// mutationSource is the source of the package mutation.
const mutationSource = `package mutation

import "os"

var active = os.Getenv("` + mutantVariable + `")

// Active reports whether a mutant is active.
func Active(name string) bool { return active == name }
`

// edit replaces the bytes from an offset to another one.
type edit struct {
	from, to int
	text     string
}

// instrument returns the source of a file with the given mutants, all of which are of this file.
func instrument(src []byte, modulePath string, mutants []mutant) ([]byte, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, mutants[0].file, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	offset := func(p token.Pos) int { return fset.Position(p).Offset }
	edits := []edit{{
		from: offset(file.Name.End()), to: offset(file.Name.End()),
		text: fmt.Sprintf("; import %s %q", mutationAlias, modulePath+"/"+mutationPackage),
	}}
	var copies bytes.Buffer
	named := map[*ast.FuncDecl]bool{}
	for _, m := range mutants {
		at, err := m.find(src)
		if err != nil {
			return nil, err
		}
		f := enclosing(file, offset, at, at+len(m.old))
		if f == nil {
			return nil, fmt.Errorf("mutant %s: the text is not in the body of a function", m.name)
		}
		if !named[f] {
			named[f] = true
			edits = append(edits, nameParameters(f, offset)...)
		}
		suffix := "__" + strings.ReplaceAll(m.name, "-", "_")
		edits = append(edits, edit{from: offset(f.Body.Lbrace) + 1, to: offset(f.Body.Lbrace) + 1, text: prologue(f, m.name, suffix)})

		from, to, name := offset(f.Pos()), offset(f.End()), offset(f.Name.End())
		fmt.Fprintf(&copies, "\n%s%s%s%s%s\n", src[from:name], suffix, src[name:at], m.text, src[at+len(m.old):to])
	}
	slices.SortStableFunc(edits, func(a, b edit) int { return cmp.Compare(a.from, b.from) })
	var out bytes.Buffer
	done := 0
	for _, e := range edits {
		out.Write(src[done:e.from])
		out.WriteString(e.text)
		done = e.to
	}
	out.Write(src[done:])
	out.Write(copies.Bytes())
	return out.Bytes(), nil
}

// find returns the offset of the old text, which must occur once.
func (m *mutant) find(src []byte) (int, error) {
	switch n := bytes.Count(src, []byte(m.old)); {
	case m.old == "" || m.old == m.text:
		return 0, fmt.Errorf("mutant %s changes nothing", m.name)
	case n != 1:
		return 0, fmt.Errorf("mutant %s: its text occurs %d times in %s: %w", m.name, n, m.file, errStale)
	}
	return bytes.Index(src, []byte(m.old)), nil
}

// errStale means that the code has changed since the mutant was written.
var errStale = errors.New("the mutant does not fit the code any more")

// enclosing returns the function whose body contains the bytes from one offset to another, or nil.
func enclosing(file *ast.File, offset func(token.Pos) int, from, to int) *ast.FuncDecl {
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil && offset(f.Body.Lbrace) < from && to <= offset(f.Body.Rbrace) {
			return f
		}
	}
	return nil
}

// nameParameters returns edits that name the receiver and the parameters of a function that have no
// names, and sets the names in the syntax tree.
func nameParameters(f *ast.FuncDecl, offset func(token.Pos) int) (edits []edit) {
	n := 0
	for _, list := range []*ast.FieldList{f.Recv, f.Type.Params} {
		if list == nil {
			continue
		}
		for _, field := range list.List {
			if len(field.Names) == 0 {
				name := fmt.Sprint("unnamed", n)
				n++
				field.Names = []*ast.Ident{{Name: name}}
				edits = append(edits, edit{from: offset(field.Type.Pos()), to: offset(field.Type.Pos()), text: name + " "})
				continue
			}
			for _, ident := range field.Names {
				if ident.Name == "_" {
					ident.Name = fmt.Sprint("unnamed", n)
					n++
					edits = append(edits, edit{from: offset(ident.Pos()), to: offset(ident.Pos()) + 1, text: ident.Name})
				}
			}
		}
	}
	return edits
}

// prologue returns the statements with which a function calls its mutated copy.
func prologue(f *ast.FuncDecl, mutantName, suffix string) string {
	var args []string
	for _, field := range f.Type.Params.List {
		_, variadic := field.Type.(*ast.Ellipsis)
		for _, ident := range field.Names {
			arg := ident.Name
			if variadic {
				arg += "..."
			}
			args = append(args, arg)
		}
	}
	call := fmt.Sprintf("%s%s(%s)", f.Name.Name, suffix, strings.Join(args, ", "))
	switch {
	case f.Recv != nil:
		call = f.Recv.List[0].Names[0].Name + "." + call
	case f.Type.TypeParams != nil:
		var types []string
		for _, field := range f.Type.TypeParams.List {
			for _, ident := range field.Names {
				types = append(types, ident.Name)
			}
		}
		call = fmt.Sprintf("%s%s[%s](%s)", f.Name.Name, suffix, strings.Join(types, ", "), strings.Join(args, ", "))
	}
	if f.Type.Results != nil && len(f.Type.Results.List) > 0 {
		return fmt.Sprintf(" if %s.Active(%q) { return %s };", mutationAlias, mutantName, call)
	}
	return fmt.Sprintf(" if %s.Active(%q) { %s; return };", mutationAlias, mutantName, call)
}
