//go:build !goexperiment.jsonv2

// Command pratique-analyzer is the child process in which Pratique analyses
// layers and image configs. Trivy's analyzers need GOEXPERIMENT=jsonv2; built
// without it, this program says so and nothing else, so that `go build ./...`
// works.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "pratique-analyzer: built without Trivy's analyzers; build it with GOEXPERIMENT=jsonv2")
	os.Exit(1)
}
