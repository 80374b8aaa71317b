// Command fleet makes what Pratique's speed with many images is measured with.
//
//	fleet fill -images 100000 -layers 20000 -components 200000 -database DB.tar.gz -o DIR
//	fleet mutate -database DB.tar.gz -fleet DIR/fleet.json -share 0.01 -o NEW.tar.gz
//	fleet update -dir DIR -database NEW.tar.gz [-full]
//	fleet plot -title T -x LABEL -y LABEL -o FILE.svg < lines of NAME, x and y
//
// fill makes the data directory of a server that knows that many images, as one
// that has scanned all of them: through the same scanner and state, with only the
// content of layers made up. Packages, their metadata and how they lie together are
// those of real images (testdata/database/inventories.jsonl.zst); the names of more
// packages and the versions in which they occur are those of the database's
// advisories; three names in four in application layers are invented, because of
// most packages no database says anything. Few base images lie below most images; an application
// layer has packages of its own and popular ones. The same arguments make the same
// fleet.
//
// mutate makes a newer database: of a share of all package keys, of those that the
// fleet holds as well as of the others, one advisory differs, in one of five ways.
//
// update has the parts of a server (state, matcher, database, rescanner) adopt it and
// measures what follows. It changes DIR, or with -redis the fleet there.
//
// plot draws lines as SVG.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	commands := map[string]func(context.Context, []string) error{"fill": fillCommand, "mutate": mutateCommand, "update": updateCommand, "plot": plotCommand}
	if len(args) == 0 || commands[args[0]] == nil {
		return errors.New("usage: fleet fill|mutate|update|plot [flags]")
	}
	return commands[args[0]](ctx, args[1:])
}

func fillCommand(ctx context.Context, args []string) error {
	var p plan
	fs := flag.NewFlagSet("fill", flag.ContinueOnError)
	fs.IntVar(&p.Images, "images", 100_000, "how many images")
	fs.IntVar(&p.Layers, "layers", 20_000, "how many distinct layers")
	fs.IntVar(&p.Components, "components", 200_000, "how many distinct packages in application layers, about; those of operating systems come on top")
	fs.IntVar(&p.Marked, "marked", 100, "how many images hold the reserved packages")
	fs.Uint64Var(&p.Seed, "seed", 1, "another fleet for another number")
	fs.StringVar(&p.Redis, "redis", "", "URL of a Redis, which should be empty, to fill instead of DIR/state.db")
	inventories := fs.String("inventories", "testdata/database/inventories.jsonl.zst", "inventories of real images")
	archive := fs.String("database", "", "vulnerability database, .tar.gz")
	analyzer := fs.String("analyzer", "bin/pratique-analyzer", "the analyzer in whose name inventories are stored")
	out := fs.String("o", "", "directory to make, as a server's dataDir")
	profile := fs.String("cpuprofile", "", "write a CPU profile here")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *archive == "" || *out == "" {
		return errors.New("fill needs -database and -o")
	}
	samples, err := readSamples(*inventories)
	if err != nil {
		return err
	}
	db, err := openArchive(*archive)
	if err != nil {
		return err
	}
	known, err := readNames(filepath.Join(db, "trivy.db"))
	if err := errors.Join(err, os.RemoveAll(db)); err != nil {
		return err
	}
	m, err := newModel(p, samples, known)
	if err != nil {
		return err
	}
	if *profile != "" {
		to, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer func() { _ = to.Close() }()
		if err := pprof.StartCPUProfile(to); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	f, err := fill(ctx, m, *archive, *analyzer, *out, os.Stderr)
	if err != nil {
		return err
	}
	f.Keys = nil
	return json.NewEncoder(os.Stdout).Encode(f)
}
