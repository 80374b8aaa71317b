package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"pratique/nodes"
)

// writeFiles writes files below dir. When one is there already and differs,
// nothing at all is written, unless force is given: half a configuration is none.
func writeFiles(w io.Writer, dir string, files []nodes.File, force bool) error {
	same := make(map[string]bool)
	differing := 0
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		old, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		case bytes.Equal(old, f.Data):
			same[f.Path] = true
			continue
		}
		differing++
		_, _ = fmt.Fprintf(w, "differs    %s\n", path)
		if f.Mode&0o077 == 0 {
			_, _ = fmt.Fprintln(w, "  (holds a secret, not shown)")
			continue
		}
		_, _ = io.WriteString(w, difference(string(old), string(f.Data)))
	}
	if differing > 0 && !force {
		return fmt.Errorf("%d files are there and differ; nothing was written. Merge them by hand, or overwrite them with --force", differing)
	}
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		word := "unchanged "
		if !same[f.Path] {
			word = "written   "
			if err := writeFile(path, f); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "%s %s\n", word, path); err != nil {
			return err
		}
	}
	return nil
}

// writeFile replaces path whole or not at all.
func writeFile(path string, f nodes.File) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".pratique-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
		}
	}()
	if _, err := tmp.Write(f.Data); err != nil {
		return err
	}
	if err := tmp.Chmod(f.Mode); err != nil { // created 0600: never readable too early
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// difference shows what would become of old: lines that go with "-", lines that
// come with "+", those that stay left out.
func difference(old, next string) string {
	a, b := strings.Split(strings.TrimRight(old, "\n"), "\n"), strings.Split(strings.TrimRight(next, "\n"), "\n")
	common := make([][]int, len(a)+1) // length of the longest common rest
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out strings.Builder
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			fmt.Fprintf(&out, "  - %s\n", printable(a[i]))
			i++
		default:
			fmt.Fprintf(&out, "  + %s\n", printable(b[j]))
			j++
		}
	}
	return out.String()
}
