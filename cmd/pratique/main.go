// Command pratique is the registry proxy and its client: `pratique serve` runs
// the server, the other commands ask a running one through its admin address.
//
// It holds flags, wiring and output; what it wires is in the packages.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The second signal finds the default handler again: a person who presses
	// Ctrl-C twice does not want to wait for the drain.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
}
