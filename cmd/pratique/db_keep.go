package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"pratique/scanner/database"
	"pratique/web"
)

func dbRollbackCommand() command {
	return command{
		name:  "db rollback",
		short: "return to the vulnerability database before the one in use",
		long: `
Verifies the database that was in use before, which is kept, and uses it again.
Reports and verdicts follow at once. No source brings back the one that was rolled
back from: a newer one is adopted as soon as a source has it, and that very one
only by ` + "`pratique db import` or `pratique db rollback --undo`" + `.

Rolling back a second time is an error, because the only other database kept is
the one that was rolled back from.`,
		example: []string{"pratique db rollback", "pratique db rollback --undo"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(fs)
			output := outputFlag(fs)
			undo := fs.Bool("undo", false, "return to the database that was rolled back from")
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("db rollback", args); err != nil {
					return err
				}
				cl, err := newClient(c, *server)
				if err != nil {
					return err
				}
				query := url.Values{}
				if *undo {
					query.Set("undo", "true")
				}
				var st web.DatabaseStatus
				if _, err := cl.do(ctx, http.MethodPost, "/api/v1/database/rollback", query, nil, &st); err != nil {
					return err
				}
				return printStatus(c, *output, st)
			}
		},
	}
}

func dbExportCommand() command {
	return command{
		name:  "db export",
		args:  "FILE",
		short: "write the server's vulnerability database to a file",
		long: `
Writes the database that the server uses as a .tar.gz of trivy.db and
metadata.json, which ` + "`pratique db import`" + ` takes and which, unpacked into the db
directory of its cache, the trivy command uses. FILE is - for standard output. What
arrives is verified: a file that was written is whole, and when standard output is
not, the exit code is 1.`,
		example: []string{"pratique db export db.tar.gz", "pratique db export --which previous db.tar.gz", "pratique db export - | ssh airgap pratique db import /dev/stdin"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(fs)
			which := fs.String("which", database.Current, "`database` to write: current, previous or a digest")
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("db export", args, "FILE, or - for standard output"); err != nil {
					return err
				}
				cl, err := newClient(c, *server)
				if err != nil {
					return err
				}
				if args[0] == "-" {
					_, err = cl.exportDatabase(ctx, *which, c.out)
					return err
				}
				p := newProgress(c.err, args[0])
				d, err := cl.exportFile(ctx, *which, args[0])
				p.stop()
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(c.out, d)
				return err
			}
		},
	}
}

// exportFile writes an export beside the file and gives it its name when it is
// verified and on the disk.
func (cl *client) exportFile(ctx context.Context, which, name string) (_ digest.Digest, err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	d, err := cl.exportDatabase(ctx, which, f)
	if err == nil {
		err = errors.Join(f.Chmod(0o644), f.Sync())
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", err
	}
	return d, os.Rename(f.Name(), name)
}

// exportDatabase streams a database of the server's to w. Only without an error is
// what was written whole.
func (cl *client) exportDatabase(ctx context.Context, which string, w io.Writer) (digest.Digest, error) {
	res, err := cl.open(ctx, http.MethodGet, "/api/v1/database/export", url.Values{"which": {which}}, nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	d, err := digest.Parse(res.Header.Get(web.DatabaseHeader))
	if err != nil {
		return "", fmt.Errorf("%s does not answer as Pratique: it does not say which database it sends", cl.base.Redacted())
	}
	if err := database.VerifyExport(io.TeeReader(res.Body, w), d); err != nil {
		return "", fmt.Errorf("what arrived is not whole: %w", err)
	}
	return d, nil
}
