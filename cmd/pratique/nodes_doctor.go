package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"pratique/nodes"
)

// defaultCanary is refused by every Pratique and had by no upstream: with it
// the doctor finds what is wrong, and proves nothing (docs/adr/0006).
const defaultCanary = "docker.io/pratique-canary/refused:1"

func nodesDoctorCommand() command {
	return command{
		name:  "nodes doctor",
		short: "find out whether a node has a way around Pratique",
		long: `
Run on a node, as root. Reads the runtime's files; asks Pratique and, past it,
the upstream for the canary; and pulls it with the node's own client. A node is
closed when Pratique refuses the canary, the upstream has it, and the client
could not get it.

The canary is an image in a repository with an element "pratique-canary" in its
name, which Pratique refuses always, whatever the policy. Push one to a registry
of yours, past Pratique, and name it with --canary; any image will do. The
default is one that no registry has: ways around that are in the files are found
with it, but "closed" cannot be proven.

Exit code: 0 closed, 3 open, 4 not proven, 1 error.`,
		example: []string{
			"pratique nodes doctor --runtime containerd --server https://pratique.example:5000 --canary registry.example/team/pratique-canary:1",
			"pratique nodes doctor --runtime podman --server http://10.0.0.9:5000 --upstream docker.io --upstream ghcr.io",
		},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			d := &doctor{flags: newNodeFlags(fs)}
			fs.StringVar(&d.canary, "canary", defaultCanary, "`image` that Pratique refuses")
			fs.StringVar(&d.direct, "direct", "", "`URL` of the canary's upstream, when it is not https:// and its name")
			fs.StringVar(&d.root, "root", "/", "where the node's files are, a `directory`")
			fs.StringVar(&d.pull, "pull", "", "`command` that pulls; the image stands for {}, or follows (default: the runtime's own)")
			fs.DurationVar(&d.timeout, "timeout", 3*time.Minute, "for each step")
			output := outputFlag(fs)
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("nodes doctor", args); err != nil {
					return err
				}
				report, err := d.examine(ctx, c)
				if err != nil {
					return err
				}
				if err := report.print(c, *output); err != nil {
					return err
				}
				if code := report.exit(); code != exitOK {
					return &exitCode{code: code}
				}
				return nil
			}
		},
	}
}

// doctor examines one node.
type doctor struct {
	flags                      *nodeFlags
	canary, direct, root, pull string
	timeout                    time.Duration
}

// diagnosis is what is printed.
type diagnosis struct {
	Outcome  nodes.Outcome `json:"outcome"`
	Why      []string      `json:"why"`
	Canary   string        `json:"canary"`
	Problems []finding     `json:"problems"`
	Pratique asked         `json:"pratique"`
	Upstream asked         `json:"upstream"`
	Pull     *pulled       `json:"pull"` // null when none ran
}

type finding struct {
	Path string `json:"path"`
	Open bool   `json:"open"`
	Text string `json:"text"`
}

// asked is a registry's answer and its words.
type asked struct {
	Answer nodes.Answer `json:"answer"`
	Detail string       `json:"detail"`
}

type pulled struct {
	Command string `json:"command"`
	Exit    int    `json:"exit"`
	Output  string `json:"output"`
}

func (d *doctor) examine(ctx context.Context, c *console) (*diagnosis, error) {
	cfg, err := d.flags.config(c)
	if err != nil {
		return nil, err
	}
	ref, err := name.ParseReference(d.canary)
	if err != nil {
		return nil, fmt.Errorf("--canary: %w", err)
	}
	problems, err := nodes.Inspect(os.DirFS(d.root), cfg)
	if err != nil {
		return nil, err
	}
	out := &diagnosis{Canary: d.canary, Problems: []finding{}}
	for _, p := range problems {
		out.Problems = append(out.Problems, finding{"/" + p.Path, p.Open, p.Text})
	}
	client, err := registryClient(cfg)
	if err != nil {
		return nil, err
	}
	out.Pratique = d.within(ctx, func(ctx context.Context) asked { return askPratique(ctx, client, cfg, ref) })
	out.Upstream = d.within(ctx, func(ctx context.Context) asked { return askUpstream(ctx, d.direct, ref) })
	evidence := nodes.Evidence{Problems: problems, Pratique: out.Pratique.Answer, Upstream: out.Upstream.Answer}
	if command, ok := d.command(cfg.Runtime); ok {
		evidence.Pulled = runPull(ctx, d.timeout, withImage(command, d.canary))
		if evidence.Pulled.Ran {
			out.Pull = &pulled{evidence.Pulled.Command, evidence.Pulled.Exit, evidence.Pulled.Output}
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	out.Outcome, out.Why = nodes.Judge(evidence)
	return out, nil
}

func (d *doctor) within(ctx context.Context, ask func(context.Context) asked) asked {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	return ask(ctx)
}

// command is the client to pull with: the one that was asked for, or the first
// of the runtime's that is there.
func (d *doctor) command(r nodes.Runtime) ([]string, bool) {
	if words := strings.Fields(d.pull); len(words) > 0 {
		return words, true
	}
	for _, words := range nodes.Clients(r) {
		if _, err := exec.LookPath(words[0]); err == nil {
			return words, true
		}
	}
	return nil, false
}

// withImage puts the image where {} stands, or at the end.
func withImage(command []string, image string) []string {
	words := slices.Clone(command)
	for i, w := range words {
		words[i] = strings.ReplaceAll(w, "{}", image)
	}
	if slices.Equal(words, command) {
		words = append(words, image)
	}
	return words
}

// maxOutput bounds what is kept of a client's output.
const maxOutput = 64 << 10

// runPull runs a client to its end.
func runPull(ctx context.Context, timeout time.Duration, words []string) nodes.Pull {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...) //nolint:gosec // what root typed, or a runtime's own client
	cmd.WaitDelay = time.Second
	raw, err := cmd.CombinedOutput()
	p := nodes.Pull{Command: strings.Join(words, " "), Output: strings.TrimSpace(string(raw[max(0, len(raw)-maxOutput):]))}
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		p.Ran = true
	case exited && exit.Exited() && ctx.Err() == nil:
		p.Ran, p.Exit = true, exit.ExitCode()
	}
	return p
}

func (d *diagnosis) exit() int {
	switch d.Outcome {
	case nodes.Closed:
		return exitOK
	case nodes.Open:
		return exitRefused
	case nodes.Unproven:
	}
	return exitPending
}

func (d *diagnosis) print(c *console, output string) error {
	if output == "json" {
		return printJSON(c.out, d)
	}
	words := map[nodes.Outcome]string{nodes.Closed: "CLOSED", nodes.Open: "OPEN", nodes.Unproven: "NOT PROVEN"}
	if _, err := fmt.Fprintf(c.out, "%s\n", words[d.Outcome]); err != nil {
		return err
	}
	facts := [][2]string{}
	for _, why := range d.Why {
		facts = append(facts, [2]string{"because", why})
	}
	for _, p := range d.Problems {
		if !p.Open {
			facts = append(facts, [2]string{"note", p.Path + ": " + p.Text})
		}
	}
	facts = append(facts, [2]string{"canary", d.Canary},
		[2]string{"pratique", d.Pratique.Detail}, [2]string{"upstream", d.Upstream.Detail})
	if d.Pull != nil {
		last := d.Pull.Output[strings.LastIndexByte(d.Pull.Output, '\n')+1:]
		facts = append(facts, [2]string{"pull", fmt.Sprintf("`%s` exit %d: %s", d.Pull.Command, d.Pull.Exit, last)})
		if d.Pull.Exit == 0 && d.Outcome == nodes.Open {
			facts = append(facts, [2]string{"then", "remove the canary from the node before the next examination"})
		}
	}
	return printFacts(c.out, width(c), facts)
}
