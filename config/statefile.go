package config

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// stateFormat identifies the format and its version.
const stateFormat = "etcdkit config 1"

// stateFile is the content of a state file.
type stateFile struct {
	Format   string                `json:"format"`
	Dir      string                `json:"dir"`
	Revision int64                 `json:"revision"`
	Saved    time.Time             `json:"saved"`
	Values   map[string]stateValue `json:"values"`
}

// stateValue is one value. UTF-8 is stored as text to keep the file readable.
type stateValue struct {
	Text     string `json:"text,omitempty"`
	Base64   string `json:"base64,omitempty"`
	Revision int64  `json:"revision"`
}

// savedState is the state read from a file.
type savedState struct {
	etcd layer
	rev  int64
	at   time.Time
	ok   bool // the file exists and is valid
}

// readState reads a state file. It returns the zero value if the file does not exist.
func readState(path, dir string) (savedState, error) {
	b, err := os.ReadFile(path) //nolint:gosec // the path is the caller's
	if errors.Is(err, fs.ErrNotExist) {
		return savedState{}, nil
	} else if err != nil {
		return savedState{}, fmt.Errorf("state file: %w", err)
	}
	out, err := parseState(b, dir)
	if err != nil {
		return savedState{}, fmt.Errorf("state file %s: %w", path, err)
	}
	for key, it := range out.etcd {
		it.name = path
		out.etcd[key] = it
	}
	return out, nil
}

// parseState parses the state file of dir.
func parseState(b []byte, dir string) (savedState, error) {
	var f stateFile
	if err := json.Unmarshal(b, &f); err != nil {
		return savedState{}, decoderError("JSON", err)
	}
	switch {
	case f.Format != stateFormat:
		return savedState{}, errors.New("not a state file, or of another version")
	case f.Dir != dir:
		return savedState{}, fmt.Errorf("written for another directory, %q", f.Dir)
	}
	out := savedState{etcd: make(layer, len(f.Values)), rev: f.Revision, at: f.Saved, ok: true}
	for key, v := range f.Values {
		if err := keyspace.Name(key); err != nil {
			return savedState{}, err
		}
		value := []byte(v.Text)
		if v.Base64 != "" {
			var err error
			if value, err = base64.StdEncoding.DecodeString(v.Base64); err != nil {
				return savedState{}, fmt.Errorf("key %q: %w", key, err)
			}
		}
		out.etcd[key] = item{value: value, rev: v.Revision, origin: StateFile}
	}
	return out, nil
}

// formatState is the inverse of parseState.
func formatState(dir string, rev int64, at time.Time, etcd layer) ([]byte, error) {
	f := stateFile{Format: stateFormat, Dir: dir, Revision: rev, Saved: at.UTC(), Values: make(map[string]stateValue, len(etcd))}
	for key, it := range etcd {
		v := stateValue{Revision: it.rev}
		if utf8.Valid(it.value) {
			v.Text = string(it.value)
		} else {
			v.Base64 = base64.StdEncoding.EncodeToString(it.value)
		}
		f.Values[key] = v
	}
	return json.MarshalIndent(f, "", "  ")
}

// writeAtomically replaces a file, readable by its owner only. After a crash, power failures
// included, the file holds either the old or the new content.
func writeAtomically(path string, b []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	syncDir(dir)
	return nil
}

// removeLeftovers removes temporary files of writeAtomically that a crash left behind.
func removeLeftovers(path string) {
	dir, prefix := filepath.Dir(path), "."+filepath.Base(path)+"."
	entries, _ := os.ReadDir(dir) // an unreadable directory may still be writable
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), prefix)
		if ok && number != "" && strings.Trim(number, "0123456789") == "" && e.Type().IsRegular() {
			_ = os.Remove(filepath.Join(dir, e.Name())) // harmless if it stays
		}
	}
}

// syncDir makes a rename durable. File systems that cannot do so are tolerated: the state is a
// copy.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil { //nolint:gosec // the path is the caller's
		_ = d.Sync()
		_ = d.Close()
	}
}
