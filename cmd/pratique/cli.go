package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"pratique/internal/strictyaml"
)

// Exit codes. Scripts rely on them: see docs/cli.md.
const (
	exitOK      = 0
	exitError   = 1
	exitRefused = 3
	exitPending = 4
)

// console is what a command may touch of the outside.
type console struct {
	in       io.Reader
	out, err io.Writer
	environ  []string // as os.Environ returns it
}

// env is one environment variable; "" when it is not set.
func (c *console) env(name string) string {
	for _, v := range slices.Backward(c.environ) {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// command is one command: its words, what follows them, its help, and a
// function that declares its flags and returns what runs it.
type command struct {
	name    string // "check", "db import"
	args    string // shown in the usage line
	short   string // one line of the overview
	long    string // paragraphs of its own help
	example []string
	setup   func(fs *flag.FlagSet) func(ctx context.Context, c *console, args []string) error
}

// commands is the whole command line, in the order of the overview. The flags
// are the standard library's: two dozen flags do not pay for a framework, and
// what is wanted beyond (flags after arguments, suggestions) is small.
func commands() []command {
	commands := []command{serveCommand(), checkCommand(), imagesCommand()}
	commands = append(commands, exceptionCommands()...)
	commands = append(commands, eventCommands()...)
	commands = append(commands, cacheCommands()...)
	commands = append(commands, jobCommands()...)
	commands = append(commands, scheduleCommands()...)
	commands = append(commands, rebuildCommand(), migrateCommand())
	return append(commands, policyCheckCommand(), policyTestCommand(), policySimulateCommand(), dbStatusCommand(), dbImportCommand(), dbExportCommand(), dbDiffCommand(), dbRollbackCommand(),
		configCheckCommand(), nodesConfigCommand(), nodesDoctorCommand(), versionCommand(),
	)
}

// exitCode is an error that asks for an exit code of its own. With a nil err
// nothing more is printed.
type exitCode struct {
	code int
	err  error
}

func (e *exitCode) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitCode) Unwrap() error { return e.err }

// usageError is a command line that cannot be understood.
type usageError struct {
	command string // whose help to read; "" = the overview
	message string
}

func (e *usageError) Error() string { return e.message }

// run is the whole program without its process.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, environ []string) int {
	c := &console{in: stdin, out: stdout, err: stderr, environ: environ}
	err := dispatch(ctx, c, args)
	if err == nil {
		return exitOK
	}
	if ec, ok := errors.AsType[*exitCode](err); ok && ec.err == nil {
		return ec.code
	}
	_, _ = fmt.Fprintln(stderr, "pratique: "+err.Error())
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok && h.Hint() != "" {
		_, _ = fmt.Fprintln(stderr, "          "+h.Hint())
	}
	if u, ok := errors.AsType[*usageError](err); ok {
		_, _ = fmt.Fprintln(stderr, strings.TrimSpace("          see: pratique help "+u.command))
	}
	if ec, ok := errors.AsType[*exitCode](err); ok {
		return ec.code
	}
	return exitError
}

func dispatch(ctx context.Context, c *console, args []string) error {
	if len(args) == 0 {
		overview(c.err)
		return &exitCode{code: exitError}
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		return help(c, args[1:])
	case "-v", "-version", "--version":
		args = append([]string{"version"}, args[1:]...)
	}
	cmd, rest, err := find(args)
	if err != nil {
		return err
	}
	fs := flag.NewFlagSet(cmd.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	act := cmd.setup(fs)
	positional, err := parse(fs, rest)
	switch {
	case errors.Is(err, flag.ErrHelp):
		cmd.help(c.out)
		return nil
	case err != nil:
		return &usageError{cmd.name, explain(fs, err)}
	}
	return act(ctx, c, positional)
}

// find takes the command's one or two words from args.
func find(args []string) (command, []string, error) {
	var first, second []string
	for _, cmd := range commands() {
		a, b, two := strings.Cut(cmd.name, " ")
		switch {
		case !two && a == args[0]:
			return cmd, args[1:], nil
		case two && a == args[0]:
			if len(args) > 1 && args[1] == b {
				return cmd, args[2:], nil
			}
			second = append(second, b)
		}
		if !two || len(second) == 0 || a != args[0] {
			first = append(first, a)
		}
	}
	if len(second) > 0 {
		if len(args) == 1 || strings.HasPrefix(args[1], "-") {
			return command{}, nil, &usageError{args[0], fmt.Sprintf("%s needs one of: %s", args[0], strings.Join(second, ", "))}
		}
		return command{}, nil, &usageError{args[0], fmt.Sprintf("unknown command %q%s", args[0]+" "+args[1], strictyaml.Suggest(args[1], second))}
	}
	if strings.HasPrefix(args[0], "-") {
		return command{}, nil, &usageError{"", fmt.Sprintf("the command comes before its flags: %s", args[0])}
	}
	return command{}, nil, &usageError{"", fmt.Sprintf("unknown command %q%s", args[0], strictyaml.Suggest(args[0], first))}
}

// parse lets flags stand before, between and behind arguments; package flag
// alone stops at the first argument. "--" ends the flags.
func parse(fs *flag.FlagSet, args []string) (positional []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		rest := fs.Args()
		if len(rest) == 0 {
			return positional, nil
		}
		if n := len(args) - len(rest); n > 0 && args[n-1] == "--" {
			return append(positional, rest...), nil
		}
		positional, args = append(positional, rest[0]), rest[1:]
	}
}

// explain adds a suggestion to package flag's message about an unknown flag.
func explain(fs *flag.FlagSet, err error) string {
	name, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !unknown {
		return err.Error()
	}
	var known []string
	fs.VisitAll(func(f *flag.Flag) { known = append(known, dashed(f.Name)) })
	return fmt.Sprintf("unknown flag %s%s", dashed(name), strictyaml.Suggest(dashed(name), known))
}

// dashed is a flag as the manual writes it: -o, --server.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// want checks the number of arguments.
func want(command string, args []string, names ...string) error {
	switch {
	case len(args) < len(names):
		return &usageError{command, fmt.Sprintf("%s needs %s", command, strings.Join(names[len(args):], " and "))}
	case len(args) > len(names):
		return &usageError{command, fmt.Sprintf("%s: unexpected argument %q", command, args[len(names)])}
	}
	return nil
}

// outputFlag declares -o.
func outputFlag(fs *flag.FlagSet) *string {
	v := new(string)
	*v = "table"
	fs.Func("o", "output as `FORMAT`: table or json (default table)", func(s string) error {
		if s != "table" && s != "json" {
			return errors.New("want table or json")
		}
		*v = s
		return nil
	})
	return v
}

// setFlag declares --set, which may be given many times.
func setFlag(fs *flag.FlagSet) *[]string {
	v := new([]string)
	fs.Func("set", "override one `KEY=VALUE` of the configuration, for example registry.hold=10s; may be repeated", func(s string) error {
		*v = append(*v, s)
		return nil
	})
	return v
}
