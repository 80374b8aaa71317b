package worker_test

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	javadb "github.com/aquasecurity/trivy-java-db/pkg/db"
	javatypes "github.com/aquasecurity/trivy-java-db/pkg/types"
	_ "modernc.org/sqlite" // the Java index is written with it

	"pratique"
	"pratique/scanner/worker"
	"pratique/scanner/worker/workertest"
)

// The key is stable, and options change it.
func TestKeys(t *testing.T) {
	keys := make(map[string]bool)
	for _, o := range []worker.Options{{}, {}, {Misconfigurations: true}, {Licenses: true}} {
		keys[realPool(t, worker.Config{Options: o, Spares: -1}).Key()] = true
	}
	if len(keys) != 3 {
		t.Errorf("keys %v, want 3", keys)
	}
	out, err := exec.Command(workertest.Binary(t), "--key").Output()
	if err != nil || !keys[strings.TrimSpace(string(out))] {
		t.Errorf("--key: %q, %v; want one of %v", out, err, keys)
	}
}

// What is off by default.
func TestOptions(t *testing.T) {
	dockerfile := func(user string) []byte {
		return gzipped(t, layer(t, file{name: "app/Dockerfile", content: "FROM debian:12\nUSER " + user + "\nHEALTHCHECK CMD true\n"},
			file{name: "usr/share/x/LICENSE", content: mit}))
	}
	ask := func(o worker.Options, user string) pratique.Inventory {
		t.Helper()
		p := realPool(t, worker.Config{Options: o, Spares: -1})
		b := dockerfile(user)
		inv, err := p.Layer(t.Context(), describe(b), bytes.NewReader(b))
		if err != nil || inv.State() != pratique.StateScanned {
			t.Fatalf("%+v, %v", inv.Problems, err)
		}
		return inv
	}
	if off := ask(worker.Options{}, "root"); off.Misconfigurations != nil || off.Licenses != nil {
		t.Errorf("by default: %+v, %+v", off.Misconfigurations, off.Licenses)
	}
	on := worker.Options{Misconfigurations: true, Licenses: true}
	lower, upper := ask(on, "root"), ask(on, "app")
	config := pratique.Inventory{Analyzer: lower.Analyzer}
	alone := pratique.Merge([]pratique.Inventory{lower}, &config)
	if len(alone.Misconfigurations) != 1 || alone.Misconfigurations[0].ID != "DS-0002" || alone.Misconfigurations[0].Path != "app/Dockerfile" {
		t.Errorf("misconfigurations %+v", alone.Misconfigurations)
	}
	if len(alone.Licenses) == 0 || alone.Licenses[0].Name != "MIT" {
		t.Errorf("licenses %+v", alone.Licenses)
	}
	// A corrected file hides the lower layer's.
	if got := pratique.Merge([]pratique.Inventory{lower, upper}, &config).Misconfigurations; len(got) != 0 {
		t.Errorf("after the correction: %+v", got)
	}
}

// With a Java index a jar without metadata is known by its digest.
func TestJavaIndex(t *testing.T) {
	nameless := zipped(t, "a.class", []byte("x"))
	sum := sha1.Sum([]byte(nameless))
	dir := t.TempDir()
	index, err := javadb.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	metadata := javadb.NewMetadata(dir)
	err = errors.Join(index.Init(), index.InsertIndexes([]javatypes.Index{{
		GroupID: "org.example", ArtifactID: "thing", Version: "1.2.3", SHA1: sum[:], ArchiveType: javatypes.JarType,
	}}), index.Close(), metadata.Update(javadb.Metadata{Version: javadb.SchemaVersion, UpdatedAt: time.Unix(1, 0)}))
	if err != nil {
		t.Fatal(err)
	}
	b := gzipped(t, layer(t, file{name: "opt/x.jar", content: nameless}))
	keys := make(map[string]bool)
	for given, want := range map[string]string{"": "", dir: "org.example:thing 1.2.3"} {
		p := realPool(t, worker.Config{Options: worker.Options{JavaDB: given}})
		keys[p.Key()] = true
		inv, err := p.Layer(t.Context(), describe(b), bytes.NewReader(b))
		if err != nil || inv.State() != pratique.StateScanned {
			t.Fatalf("%+v, %v", inv.Problems, err)
		}
		got := ""
		for _, a := range inv.Applications {
			for _, p := range a.Packages {
				got += p.Name + " " + p.Version
			}
		}
		if got != want {
			t.Errorf("with index %q: %q, want %q", given, got, want)
		}
	}
	if len(keys) != 2 {
		t.Errorf("the index is not part of the key: %v", keys)
	}
	if _, err := worker.NewPool(t.Context(), worker.Config{Path: workertest.Binary(t), TempDir: t.TempDir(),
		Options: worker.Options{JavaDB: t.TempDir()}}); err == nil || !strings.Contains(err.Error(), "java index") {
		t.Errorf("a directory without an index: %v", err)
	}
}

// Built without the experiment the program says so, and a pool shows it.
func TestBuiltWithoutAnalyzers(t *testing.T) {
	path := filepath.Join(t.TempDir(), worker.BinaryName)
	cmd := exec.Command("go", "build", "-o", path, "pratique/cmd/pratique-analyzer")
	cmd.Env = append(os.Environ(), "GOEXPERIMENT=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, err := worker.NewPool(t.Context(), worker.Config{Path: path, TempDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "GOEXPERIMENT=jsonv2") {
		t.Errorf("error %v", err)
	}
}

const mit = `MIT License

Copyright (c) 2026 Example

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
`
