package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// TestDockerfile reads the Dockerfile as BuildKit does and holds it to what the
// product promises. That it builds is TestImage's part, where podman is.
func TestDockerfile(t *testing.T) {
	f, err := os.Open("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	parsed, err := parser.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range parsed.Warnings {
		t.Errorf("warning: %s", w.Short)
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(stages) != 2 {
		t.Fatalf("%d stages, want build and the image", len(stages))
	}
	build, image := stages[0], stages[1]
	if image.BaseName != "scratch" {
		t.Errorf("the image is built on %s", image.BaseName)
	}

	var runs, user, entry, copies []string
	for _, c := range build.Commands {
		if r, ok := c.(*instructions.RunCommand); ok {
			runs = append(runs, strings.Join(r.CmdLine, " "))
		}
	}
	for _, c := range image.Commands {
		switch c := c.(type) {
		case *instructions.UserCommand:
			user = append(user, c.User)
		case *instructions.EntrypointCommand:
			entry = c.CmdLine
		case *instructions.CopyCommand:
			copies = append(copies, c.From)
		}
	}
	if !slices.Equal(user, []string{"65532:65532"}) {
		t.Errorf("USER %v, want the nonroot 65532:65532 alone", user)
	}
	if !slices.Equal(entry, []string{"/usr/local/bin/pratique"}) {
		t.Errorf("ENTRYPOINT %v", entry)
	}
	if slices.ContainsFunc(copies, func(from string) bool { return from != build.Name }) {
		t.Errorf("COPY from %v: the image holds what %q made and nothing else", copies, build.Name)
	}

	all := strings.Join(runs, "\n")
	for _, want := range []string{
		`go build -trimpath -ldflags "-s -w" -o /out/usr/local/bin/pratique ./cmd/pratique`,
		`GOEXPERIMENT=jsonv2 go build -trimpath -ldflags "-s -w" -o /out/usr/local/bin/pratique-analyzer ./cmd/pratique-analyzer`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no stage runs %s", want)
		}
	}
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(mod))
	if version == nil || !strings.HasPrefix(build.BaseName, "golang:"+version[1]+"-") {
		t.Errorf("FROM %s, go.mod says %v", build.BaseName, version)
	}
	for _, file := range regexp.MustCompile(`cp (configs/\S+) (\S+) (\S+) /out`).FindStringSubmatch(all)[1:] {
		if _, err := os.Stat(filepath.Join("..", file)); err != nil {
			t.Error(err)
		}
	}
}
