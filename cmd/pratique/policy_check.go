package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pratique/internal/config"
	"pratique/policy"
)

func policyCheckCommand() command {
	return command{
		name:  "policy check",
		args:  "FILE…",
		short: "check policy files: mistakes, and rules that do nothing or contradict each other",
		long: `
Reads the policy files as they would be in force together, and prints every
mistake with file, line and a suggestion; then every rule that never changes a
verdict, contradicts another one, or cannot do what it seems to. A directory
stands for all *.yaml in it. With --config, what rules count on (trusted
identities, KEV and EPSS lists) is held against that configuration too; without
FILE, the policies that it names are checked.

Exit code: 0 nothing wrong (warnings may have been printed), 1 a mistake, or with
--strict a warning.`,
		example: []string{
			"pratique policy check policies/house.yaml",
			"pratique policy check --strict policies/",
			"pratique policy check --config /etc/pratique/pratique.yaml",
		},
		setup: func(flags *flag.FlagSet) func(context.Context, *console, []string) error {
			file := flags.String("config", "", "configuration `FILE` that the policies are for")
			strict := flags.Bool("strict", false, "warnings are mistakes")
			return func(_ context.Context, c *console, args []string) error {
				files, rules, err := policiesToCheck(c, *file, args)
				if err != nil {
					return err
				}
				warnings, err := policy.Lint(files...)
				if err != nil {
					return err
				}
				for _, w := range warnings {
					if _, err := fmt.Fprintln(c.out, "warning:", w); err != nil {
						return err
					}
				}
				if *strict && len(warnings) > 0 {
					return fmt.Errorf("%d %s, and --strict", len(warnings), plural(len(warnings), "warning", "warnings"))
				}
				_, err = fmt.Fprintf(c.out, "OK: %s, %d %s, version %s\n", fileNames(files), rules.rules, plural(rules.rules, "rule", "rules"), rules.version)
				return err
			}
		},
	}
}

// checked is what is said of policies that are in order.
type checked struct {
	rules   int
	version string
}

// policiesToCheck reads what args name, or what the configuration does.
func policiesToCheck(c *console, configuration string, args []string) ([]policy.File, checked, error) {
	var cfg *config.Config
	if configuration != "" {
		loaded, err := config.Load(configuration, c.environ, nil)
		if err != nil {
			return nil, checked{}, err
		}
		cfg = &loaded
	}
	var files []policy.File
	var err error
	switch {
	case len(args) > 0:
		files, err = readPolicies(args)
		if cfg != nil {
			cfg.Policies = names(files)
		}
	case cfg != nil:
		files, err = readPolicies(cfg.Policies)
		if len(cfg.Policies) == 0 {
			return nil, checked{}, &usageError{"policy check", "the configuration names no policies: the embedded one applies, which needs no check"}
		}
	default:
		return nil, checked{}, &usageError{"policy check", "policy check needs FILE, or --config"}
	}
	if err != nil {
		return nil, checked{}, err
	}
	set, err := policy.Load(files...)
	if err == nil && cfg != nil {
		set, err = cfg.LoadPolicies()
	}
	if err != nil {
		return nil, checked{}, err
	}
	return files, checked{len(set.Rules()), set.Version()}, nil
}

// maxPolicy bounds a policy file, in bytes; package policy has the limit of its
// own, and this keeps a device from being read.
const maxPolicy = 4 << 20

// readable refuses what is no text that a person wrote.
func readable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.Size() > maxPolicy || !info.Mode().IsRegular() && info.Mode()&fs.ModeNamedPipe == 0:
		return fmt.Errorf("%s: want a text of at most %d bytes", path, maxPolicy)
	}
	return nil
}

// readPolicies reads files, and the *.yaml of directories.
func readPolicies(paths []string) ([]policy.File, error) {
	var out []policy.File
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		found := []string{path}
		if info.IsDir() {
			if found, err = filepath.Glob(filepath.Join(path, "*.yaml")); err != nil {
				return nil, err
			}
			if len(found) == 0 {
				return nil, fmt.Errorf("%s: no *.yaml in it", path)
			}
			slices.Sort(found)
		}
		for _, name := range found {
			data, err := readBounded(name)
			if err != nil {
				return nil, err
			}
			out = append(out, policy.File{Name: name, Data: data})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no policy files")
	}
	return out, nil
}

func names(files []policy.File) []string {
	out := make([]string, len(files))
	for i, f := range files {
		out[i] = f.Name
	}
	return out
}

func fileNames(files []policy.File) string { return strings.Join(names(files), ", ") }

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
