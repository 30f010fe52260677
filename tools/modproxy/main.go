// Modproxy writes modules, as a release of them would be, to a directory that can be a GOPROXY:
//
//	modproxy DIR VERSION MODULE...
//
// Each MODULE is the directory of a module.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: modproxy DIR VERSION MODULE...")
		os.Exit(2)
	}
	for _, dir := range os.Args[3:] {
		if err := publish(os.Args[1], os.Args[2], dir); err != nil {
			fmt.Fprintf(os.Stderr, "modproxy: %s: %v\n", dir, err)
			os.Exit(1)
		}
	}
}

// publish writes the module in dir to the proxy.
func publish(proxy, version, dir string) error {
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return err
	}
	m := module.Version{Path: modfile.ModulePath(mod), Version: version}
	to := filepath.Join(proxy, filepath.FromSlash(m.Path), "@v")
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(to, version+".zip"))
	if err != nil {
		return err
	}
	return errors.Join(
		zip.CreateFromDir(out, m, dir),
		out.Close(),
		os.WriteFile(filepath.Join(to, version+".mod"), mod, 0o644),
		os.WriteFile(filepath.Join(to, version+".info"), fmt.Appendf(nil, "{%q: %q}\n", "Version", version), 0o644),
		os.WriteFile(filepath.Join(to, "list"), []byte(version+"\n"), 0o644),
	)
}
