package main

import (
	"cmp"
	"context"
	"flag"
	"runtime"
	"runtime/debug"
)

// version is set by the linker (-X main.version=v1.2.3) in released binaries;
// it never changes at run time.
var version string

// buildVersion says what this binary is made of.
type buildVersion struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Trivy   string `json:"trivy"`
	Go      string `json:"go"`
}

func readVersion() buildVersion {
	v := buildVersion{Version: version, Commit: "unknown", Trivy: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		v.Version = cmp.Or(v.Version, "(devel)")
		return v
	}
	v.Version = cmp.Or(v.Version, info.Main.Version, "(devel)")
	dirty := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = " (modified)"
			}
		}
	}
	v.Commit += dirty
	for _, d := range info.Deps {
		if d.Path == "github.com/aquasecurity/trivy" {
			v.Trivy = d.Version
		}
	}
	return v
}

func versionCommand() command {
	return command{
		name:    "version",
		short:   "version of this binary, of Trivy in it, and of Go",
		long:    `Prints the version of this binary, the commit it was built from, the version of Trivy it matches with, and of Go.`,
		example: []string{"pratique version", "pratique version -o json"},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			output := outputFlag(fs)
			return func(_ context.Context, c *console, args []string) error {
				if err := want("version", args); err != nil {
					return err
				}
				v := readVersion()
				if *output == "json" {
					return printJSON(c.out, v)
				}
				return printFacts(c.out, width(c), [][2]string{
					{"pratique", v.Version}, {"commit", v.Commit}, {"trivy", v.Trivy}, {"go", v.Go},
				})
			}
		},
	}
}
