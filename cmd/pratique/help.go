package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// help prints the overview, or the help of one command or group of commands.
func help(c *console, words []string) error {
	if len(words) == 0 {
		overview(c.out)
		return nil
	}
	found := false
	for _, cmd := range commands() {
		name := strings.Join(words, " ")
		if cmd.name != name && !strings.HasPrefix(cmd.name, name+" ") {
			continue
		}
		if found {
			_, _ = fmt.Fprintln(c.out)
		}
		cmd.help(c.out)
		found = true
	}
	if found {
		return nil
	}
	_, _, err := find(words)
	if err == nil {
		err = &usageError{"", "no help on " + strings.Join(words, " ")}
	}
	return err
}

func overview(w io.Writer) {
	_, _ = fmt.Fprint(w, `Pratique is a pull-through registry that scans what it caches and refuses what
breaks policy.

Usage: pratique COMMAND [flags] [arguments]

`)
	for _, cmd := range commands() {
		_, _ = fmt.Fprintf(w, "  %-17s %s\n", cmd.name, cmd.short)
	}
	_, _ = fmt.Fprint(w, `
pratique help COMMAND tells more. The commands other than serve, rebuild, migrate,
config, nodes and version ask the server at --server, PRATIQUE_SERVER or http://127.0.0.1:5001.
`)
}

func (cmd command) help(w io.Writer) {
	fs := flag.NewFlagSet(cmd.name, flag.ContinueOnError)
	cmd.setup(fs)
	usage := "pratique " + cmd.name
	flags := false
	fs.VisitAll(func(*flag.Flag) { flags = true })
	if flags {
		usage += " [flags]"
	}
	if cmd.args != "" {
		usage += " " + cmd.args
	}
	_, _ = fmt.Fprintf(w, "Usage: %s\n\n%s\n", usage, strings.TrimSpace(cmd.long))
	if flags {
		_, _ = fmt.Fprintln(w, "\nFlags:")
		fs.VisitAll(func(f *flag.Flag) {
			value, text := flag.UnquoteUsage(f)
			if f.DefValue != "" && f.DefValue != "false" {
				text += fmt.Sprintf(" (default %s)", f.DefValue)
			}
			_, _ = fmt.Fprintf(w, "  %-18s %s\n", strings.TrimSpace(dashed(f.Name)+" "+value), text)
		})
	}
	if len(cmd.example) > 0 {
		_, _ = fmt.Fprintln(w, "\nExamples:")
		for _, e := range cmd.example {
			_, _ = fmt.Fprintln(w, "  "+e)
		}
	}
}
