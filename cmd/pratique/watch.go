package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pratique/internal/config"
)

// watch applies the configuration anew whenever a file that it names has other
// content than when it was applied last, until ctx ends. Content is compared, not
// times and not events: a file may be a link into a directory that is swapped
// (Kubernetes), be on a file system that tells nothing, or be written in place. One
// that is caught half written is a mistake, which changes nothing, and is looked
// at again.
func (r *reloader) watch(ctx context.Context) error {
	cfg := r.live.current.Load().cfg
	if cfg.Watch == 0 {
		return nil
	}
	ticks := time.NewTicker(cfg.Watch)
	defer ticks.Stop()
	seen := fingerprint(cfg)
	for {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return nil
		}
		cfg := r.live.current.Load().cfg // a reload may have named other files
		now := fingerprint(cfg)
		if now == seen {
			continue
		}
		r.log.InfoContext(ctx, "files of the configuration changed")
		if _, err := r.Reload(ctx); err == nil { // a failure is in the log
			now = fingerprint(r.live.current.Load().cfg)
		}
		// After a mistake too: it is not told every few seconds, and the next change
		// is another one.
		seen = now
	}
}

// watched are the files whose change is applied by itself.
func watched(cfg config.Config) []string {
	out := slices.Concat(cfg.Policies, cfg.Exceptions.Files)
	for _, path := range cfg.VEX.Files {
		out = append(out, documents(path)...)
	}
	for _, id := range cfg.Trust.Identities {
		if id.Key != "" {
			out = append(out, id.Key)
		}
		out = append(append(out, id.Notation.CA...), id.Notation.TSA...)
	}
	if cfg.Trust.TrustedRoot != "" {
		out = append(out, cfg.Trust.TrustedRoot)
	}
	slices.Sort(out) // identities come in no order
	return out
}

// documents are a file, or the *.json of a directory.
func documents(path string) []string {
	entries, err := os.ReadDir(path)
	if err != nil {
		return []string{path} // a file; or what reading it says
	}
	out := []string{path}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") {
			out = append(out, filepath.Join(path, e.Name()))
		}
	}
	return out
}

// maxWatched bounds what is read of one file: no format here allows more.
const maxWatched = 64 << 20

// fingerprint stands for the content of every watched file, and for what keeps
// it from being read.
func fingerprint(cfg config.Config) [sha256.Size]byte {
	h := sha256.New()
	for _, path := range watched(cfg) {
		_, _ = fmt.Fprintf(h, "%q ", path)
		if err := hashFile(h, path); err != nil && !isDirectory(path) {
			_, _ = fmt.Fprintf(h, "%v", errors.Is(err, fs.ErrNotExist))
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func hashFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	n, err := io.Copy(w, io.LimitReader(f, maxWatched))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, " %d\n", n)
	return err
}
