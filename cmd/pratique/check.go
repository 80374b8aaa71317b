package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"pratique"
	"pratique/web"
)

func checkCommand() command {
	return command{
		name:  "check",
		args:  "REF | --verdict ID",
		short: "verdict on an image: would a client get it now, and if not, why",
		long: `
Asks a running server what a client that pulls REF now would meet. An image that
the server does not know yet is fetched and scanned; --wait says how long the
command waits for that.

REF is what you pull by: docker.io/library/nginx:1.27, nginx:1.27 (Docker Hub,
when it is configured), ghcr.io/org/app@sha256:…

--verdict finds a refusal or warning again by the id that the client was shown:
who met it and when, the reasons, and what the same pull would meet now.

Exit code: 0 allowed or warned, 3 refused, 4 not decided yet, 1 error. With
--verdict that is what the pull would meet now.`,
		example: []string{
			"pratique check nginx:1.27",
			"pratique check -o json ghcr.io/org/app:v2 | jq '.verdict.reasons'",
			"pratique check --wait 0s --server http://pratique:5001 registry.example/app:v2",
			"pratique check --explain nginx:1.27",
			"pratique check --verdict 0653343f9e83",
		},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			server := serverFlag(fs)
			output := outputFlag(fs)
			wait := fs.Duration("wait", 5*time.Minute, "how long to wait for a verdict, as `duration`; 0s asks once")
			all := fs.Bool("all", false, "show all findings, not the worst 40")
			explain := fs.Bool("explain", false, "show every rule: what it read, whether it was met, what it did")
			verdict := fs.String("verdict", "", "find a verdict again by the `ID` in a refusal or in the log")
			return func(ctx context.Context, c *console, args []string) error {
				if *verdict != "" {
					return checkVerdict(ctx, c, *server, *output, *verdict, *all, args)
				}
				if err := want("check", args, "REF, for example docker.io/library/nginx:1.27"); err != nil {
					return err
				}
				cl, err := newClient(c, *server)
				if err != nil {
					return err
				}
				result, err := cl.check(ctx, args[0], *wait, *explain, newProgress(c.err, args[0]))
				if err != nil {
					return err
				}
				if *output == "json" {
					err = printJSON(c.out, result)
				} else {
					err = printCheck(c.out, result, width(c), *all)
				}
				if err != nil {
					return err
				}
				return checkExit(c.err, result)
			}
		},
	}
}

// askFor is how long one request may hold; below what proxies between client
// and server cut off.
const askFor = 20 * time.Second

// check asks until there is a verdict or wait is over, and then returns what is
// known.
func (cl *client) check(ctx context.Context, ref string, wait time.Duration, explain bool, p *progress) (web.Check, error) {
	defer p.stop()
	deadline := time.Now().Add(wait)
	for {
		asked := time.Now()
		hold := min(askFor, max(0, time.Until(deadline)))
		result, status, err := cl.checkOnce(ctx, ref, hold, explain)
		if err != nil || status == http.StatusOK {
			return result, err
		}
		p.state(result.Report.State)
		if !time.Now().Before(deadline) {
			return result, nil
		}
		// A server that answers 202 sooner than asked must not be hammered.
		if pause := time.Second - time.Since(asked); pause > 0 {
			select {
			case <-time.After(min(pause, time.Until(deadline))):
			case <-ctx.Done():
				return result, ctx.Err()
			}
		}
	}
}

func (cl *client) checkOnce(ctx context.Context, ref string, hold time.Duration, explain bool) (web.Check, int, error) {
	// The server answers within hold; the rest is for the network.
	ctx, cancel := context.WithTimeoutCause(ctx, hold+30*time.Second, fmt.Errorf("no answer within %s", hold+30*time.Second))
	defer cancel()
	var out web.Check
	query := url.Values{"ref": {ref}, "wait": {hold.String()}}
	if explain {
		query.Set("explain", "true")
	}
	status, err := cl.do(ctx, http.MethodGet, "/api/v1/check", query, nil, &out)
	return out, status, err
}

// checkExit turns the verdict into the exit code. Whatever is not a verdict
// that lets the image through is not success.
func checkExit(stderr io.Writer, c web.Check) error {
	if c.Verdict == nil {
		what := "the scan"
		if c.Report.State != string(pratique.StatePending) {
			what = "looking up what its rules need to know"
		}
		_, _ = fmt.Fprintf(stderr, "pratique: not decided yet (%s); %s goes on, ask again\n", c.Report.State, what)
		return &exitCode{code: exitPending}
	}
	switch c.Verdict.Outcome {
	case pratique.OutcomeAllow, pratique.OutcomeWarn:
		return nil
	default:
		return &exitCode{code: exitRefused}
	}
}
