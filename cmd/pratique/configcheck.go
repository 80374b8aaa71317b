package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"pratique/internal/config"
)

func configCheckCommand() command {
	return command{
		name:  "config check",
		args:  "FILE",
		short: "check a configuration file and the policies it names",
		long: `
Reads FILE as ` + "`pratique serve --config FILE`" + ` would, with the PRATIQUE_ variables of
this environment and the same --set flags, and the files that it names: policies,
exceptions, VEX documents, keys and certificates of trusted identities. Prints OK
and what would be served, or every mistake with file and line. It does not touch
the machine otherwise: directories and addresses are found out at the start.`,
		example: []string{"pratique config check /etc/pratique/pratique.yaml", "pratique config check --set registry.hold=10s configs/pratique.yaml"},
		setup: func(flags *flag.FlagSet) func(context.Context, *console, []string) error {
			sets := setFlag(flags)
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("config check", args, "FILE"); err != nil {
					return err
				}
				cfg, err := config.Load(args[0], c.environ, *sets)
				if err != nil {
					return err
				}
				policies, err := cfg.LoadPolicies()
				if err != nil {
					return err
				}
				if err := checkFacts(cfg); err != nil {
					return err
				}
				if err := checkSinks(cfg); err != nil {
					return err
				}
				if err := checkHooks(ctx, cfg); err != nil {
					return err
				}
				// Secrets that are not on this machine are found out at the start.
				if _, err := redisConfig(cfg, nil, nil, nil); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				return printConfig(c, args[0], cfg, policies.Version())
			}
		},
	}
}

func printConfig(c *console, file string, cfg config.Config, policies string) error {
	upstreams := make([]string, 0, len(cfg.Upstreams))
	for _, key := range slices.Sorted(maps.Keys(cfg.Upstreams)) {
		upstreams = append(upstreams, key+" ("+cfg.Upstreams[key].URL+")")
	}
	from := strings.Join(cfg.Database.Sources, ", ")
	if cfg.Database.Path != "" {
		from = cfg.Database.Path
	}
	names := strings.Join(cfg.Policies, ", ")
	if names == "" {
		names = config.EmbeddedPolicy
	}
	state := cfg.State.SQLite.Path
	if cfg.State.Redis.URL != "" {
		state = cfg.State.Redis.URL
	}
	platforms := "all"
	if len(cfg.Platforms) > 0 {
		words := make([]string, len(cfg.Platforms))
		for i, p := range cfg.Platforms {
			words[i] = p.String()
		}
		platforms = strings.Join(words, ", ")
	}
	if _, err := fmt.Fprintf(c.out, "OK: %s\n", file); err != nil {
		return err
	}
	return printFacts(c.out, width(c), [][2]string{
		{"registry", cfg.Registry.Listen},
		{"admin", cfg.Admin.Listen},
		{"storage", string(cfg.Storage.Driver)},
		{"state", state},
		{"upstreams", strings.Join(upstreams, ", ")},
		{"database", dash(from)},
		{"platforms", platforms},
		{"policies", names + " (version " + policies + ")"},
	})
}
