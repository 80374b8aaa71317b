// Command testsum reads `go test -json` on standard input and prints what a
// person reads: one line a package, the whole output of what failed, the name
// of what was skipped, and one closing line for the suite,
//
//	unit: 312 passed, 0 failed, 2 skipped
//
// It exits 1 when anything failed and when no test ran at all.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is one line of `go help test2json`.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output and build-fail
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

type counts struct{ passed, failed, skipped int }

func (c counts) String() string {
	s := fmt.Sprintf("%d passed, %d failed", c.passed, c.failed)
	if c.skipped > 0 {
		s += fmt.Sprintf(", %d skipped", c.skipped)
	}
	return s
}

func main() {
	suite := flag.String("suite", "tests", "one word for the closing line")
	flag.Parse()
	total, err := summarize(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		total.failed++
	}
	fmt.Printf("%s: %s\n", *suite, total)
	switch {
	case total.failed > 0:
		os.Exit(1)
	case total.passed == 0:
		fmt.Fprintln(os.Stderr, "testsum: no test ran")
		os.Exit(1)
	}
}

// summarize copies what matters of r to w. Leaf tests and the tests that hold
// subtests are counted alike. Packages that fail without a failed test (build
// error, panic outside of a test, TestMain) count as one failure.
func summarize(r io.Reader, w io.Writer) (counts, error) {
	var total counts
	output := make(map[string][]string) // package or package/test → lines
	packages := make(map[string]*counts)
	in := bufio.NewScanner(r)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			// Not JSON: go itself speaks (module errors, say).
			fmt.Fprintln(w, in.Text())
			continue
		}
		if e.Package == "" {
			e.Package = e.ImportPath
		}
		key := e.Package + " " + e.Test
		c := packages[e.Package]
		if c == nil {
			c = &counts{}
			packages[e.Package] = c
		}
		switch e.Action {
		case "output", "build-output":
			output[key] = append(output[key], e.Output)
		case "pass", "skip", "fail":
			if e.Test == "" {
				finishPackage(w, e, c, output)
				total.add(*c)
				delete(packages, e.Package)
				continue
			}
			finishTest(w, e, c, output[key])
			delete(output, key)
		}
	}
	return total, in.Err()
}

func (c *counts) add(o counts) {
	c.passed += o.passed
	c.failed += o.failed
	c.skipped += o.skipped
}

func finishTest(w io.Writer, e event, c *counts, lines []string) {
	switch e.Action {
	case "pass":
		c.passed++
	case "skip":
		c.skipped++
		fmt.Fprintf(w, "--- SKIP %s %s\n%s", e.Package, e.Test, strings.Join(lines, ""))
	case "fail":
		c.failed++
		fmt.Fprintf(w, "--- FAIL %s %s\n%s", e.Package, e.Test, strings.Join(lines, ""))
	}
}

func finishPackage(w io.Writer, e event, c *counts, output map[string][]string) {
	switch {
	case e.Action == "fail":
		if c.failed == 0 {
			c.failed++
		}
		// A panic or time-out ends the package with its tests unfinished: what
		// they said last is the cause.
		for key, lines := range output {
			if pkg, test, _ := strings.Cut(key, " "); pkg == e.Package && test != "" {
				fmt.Fprintf(w, "--- UNFINISHED %s %s\n%s", e.Package, test, strings.Join(lines, ""))
				delete(output, key)
			}
		}
		if e.FailedBuild != "" {
			fmt.Fprint(w, strings.Join(output[e.FailedBuild+" "], ""))
		}
		fmt.Fprint(w, strings.Join(output[e.Package+" "], ""))
		fmt.Fprintf(w, "FAIL %s %.1fs: %s\n", e.Package, e.Elapsed, c)
	case c.passed+c.skipped > 0:
		fmt.Fprintf(w, "ok   %s %.1fs: %s\n", e.Package, e.Elapsed, c)
	}
	delete(output, e.Package+" ")
}
