//go:build goexperiment.jsonv2

// Command pratique-analyzer is the child process in which Pratique analyses
// layers and image configs. The server starts it; run by hand it tells its key.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"pratique/scanner/analyze"
	"pratique/scanner/worker"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "pratique-analyzer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	settings, child, err := worker.ReadSettings()
	if err != nil {
		return err
	}
	if child {
		return worker.Serve(ctx, settings, os.Stdin, os.Stdout, handlers)
	}
	showKey := flag.Bool("key", false, "print what this analyzer's inventories are kept under, and exit")
	javaDB := flag.String("java-db", "", "directory with Trivy's Java index")
	misconfigurations := flag.Bool("misconfigurations", false, "check configuration files in layers")
	licenses := flag.Bool("licenses", false, "look for licences in files of layers")
	flag.Parse()
	if !*showKey {
		return fmt.Errorf("this program is started by pratique; --key prints its key")
	}
	a, err := analyze.New(analyze.Options{JavaDB: *javaDB, Misconfigurations: *misconfigurations, Licenses: *licenses})
	if err != nil {
		return err
	}
	fmt.Println(a.Key())
	return a.Close()
}

// handlers is called once, in the confined child. What the analyzer leaves on
// disk lies in the private directory that the parent removes.
func handlers(s worker.Settings) (worker.Handlers, error) {
	a, err := analyze.New(analyze.Options{
		JavaDB: s.Options.JavaDB, Misconfigurations: s.Options.Misconfigurations, Licenses: s.Options.Licenses,
		Uncompressed: s.Uncompressed,
	})
	if err != nil {
		return nil, err
	}
	if s.Kind == worker.KindConfig {
		if err := a.Warm(); err != nil {
			return nil, err
		}
	}
	return a, nil
}
