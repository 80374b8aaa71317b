package main

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"

	"pratique/configs"
	"pratique/policy/cases"
)

func policyTestCommand() command {
	return command{
		name:  "policy test",
		args:  "DIR|FILE…",
		short: "test policies: facts as cases write them, and the verdicts wanted",
		long: `
Runs cases, written in txtar archives (docs/policy.md, "Testing a policy"): the
members *.yaml are the policies, or name one that is to be tested with a line
@FILE, as seen from the archive, or @default; each other member is a case, its
facts above a line "---" and the verdict wanted below. A directory stands for all
*.txtar in it and below. No server is asked.

--update writes the verdicts that were got into the archives; read what it did.

Exit code: 0 all cases hold, 1 one does not, or could not be run.`,
		example: []string{
			"pratique policy test policies/",
			"pratique policy test --update policies/testdata/house.txtar",
		},
		setup: func(flags *flag.FlagSet) func(context.Context, *console, []string) error {
			update := flags.Bool("update", false, "write the verdicts that were got into the archives")
			return func(_ context.Context, c *console, args []string) error {
				if len(args) == 0 {
					return &usageError{"policy test", "policy test needs DIR or FILE"}
				}
				paths, err := archives(args)
				if err != nil {
					return err
				}
				var total, failed int
				for _, path := range paths {
					n, bad, err := testArchive(c, path, *update)
					if err != nil {
						return err
					}
					total, failed = total+n, failed+bad
				}
				if failed > 0 {
					return fmt.Errorf("%d of %d %s failed", failed, total, plural(total, "case", "cases"))
				}
				_, err = fmt.Fprintf(c.out, "OK: %d %s\n", total, plural(total, "case", "cases"))
				return err
			}
		},
	}
}

// archives are the files named, and the *.txtar of directories.
func archives(args []string) ([]string, error) {
	var out []string
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil {
			return nil, err
		}
		found := []string{arg}
		if info.IsDir() {
			found = nil
			err := filepath.WalkDir(arg, func(path string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() && strings.HasSuffix(path, ".txtar") {
					found = append(found, path)
				}
				return err
			})
			if err != nil {
				return nil, err
			}
			if len(found) == 0 {
				return nil, fmt.Errorf("%s: no *.txtar in it", arg)
			}
		}
		out = append(out, found...)
	}
	return out, nil
}

// testArchive runs one archive and prints a line for each case. What keeps a whole
// archive from running is one failure.
func testArchive(c *console, path string, update bool) (total, failed int, err error) {
	data, err := readBounded(path)
	if err != nil {
		return 0, 0, err
	}
	archive := txtar.Parse(data)
	results, err := cases.Run(archive, cases.Config{Update: update, Read: func(name string) ([]byte, error) {
		if name == "default" {
			return configs.DefaultPolicy, nil
		}
		return readBounded(filepath.Join(filepath.Dir(path), filepath.FromSlash(name)))
	}})
	if err != nil {
		_, err = fmt.Fprintf(c.out, "FAIL %s: %s\n", path, indented(err.Error()))
		return 1, 1, err
	}
	for _, r := range results {
		mark, text := "ok  ", ""
		switch {
		case r.Err != nil:
			mark, text = "FAIL", ": "+indented(r.Err.Error())
		case r.Diff != "":
			mark, text = "FAIL", " (- wanted, + got)\n     "+indented(strings.TrimSuffix(r.Diff, "\n"))
		case r.Updated:
			mark = "new "
		}
		if !r.Held() {
			failed++
		}
		if _, err := fmt.Fprintf(c.out, "%s %s: %s%s\n", mark, path, r.Name, text); err != nil {
			return 0, 0, err
		}
	}
	if slices.ContainsFunc(results, func(r cases.Result) bool { return r.Updated }) {
		err = os.WriteFile(path, txtar.Format(archive), 0o644) //nolint:gosec // text that is in a repository
	}
	return len(results), failed, err
}

// indented puts what follows a first line below it.
func indented(text string) string { return strings.ReplaceAll(text, "\n", "\n     ") }

// readBounded reads a text that a person wrote.
func readBounded(path string) ([]byte, error) {
	if err := readable(path); err != nil {
		return nil, err
	}
	return os.ReadFile(path) //nolint:gosec // named on the command line
}
