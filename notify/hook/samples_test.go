package hook

import (
	"bytes"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bufio"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

// hosts are those of the upstream that the samples of a type are about.
func hosts(t Type) []string {
	return map[Type][]string{
		ECR:              {"123456789012.dkr.ecr.us-west-2.amazonaws.com"},
		ArtifactRegistry: {"us-east1-docker.pkg.dev"},
		JFrog:            {"acme-images.jfrog.io"},
		CloudEvents:      {"registry.example.com"},
	}[t]
}

// sample is one file of testdata/samples.
type sample struct {
	name   string
	kind   Type
	header http.Header
	body   []byte
	want   string
}

// samples are all of them.
func samples(t testing.TB) []sample {
	t.Helper()
	files, err := filepath.Glob("testdata/samples/*/*.txtar")
	if err != nil || len(files) < 60 {
		t.Fatalf("%d samples: %v", len(files), err)
	}
	out := make([]sample, 0, len(files))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := sample{name: strings.TrimPrefix(file, "testdata/samples/"), kind: Type(filepath.Base(filepath.Dir(file))), header: http.Header{}}
		for _, f := range txtar.Parse(text).Files {
			switch f.Name {
			case "headers":
				h, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(f.Data, "\r\n"...)))).ReadMIMEHeader()
				if err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				s.header = http.Header(h)
			case "body.json":
				s.body = f.Data
			case "want":
				s.want = string(f.Data)
			}
		}
		if len(s.body) == 0 || s.want == "" {
			t.Fatalf("%s has no body or no want", file)
		}
		out = append(out, s)
	}
	return out
}

func (s sample) message() *message {
	return &message{receiver: &Receiver{Type: s.kind, Upstream: "lab", Hosts: hosts(s.kind)}, header: s.header, body: s.body}
}

// words puts events as samples do.
func words(es []event) string {
	var b strings.Builder
	for _, e := range es {
		switch {
		case e.ignored:
			b.WriteString("ignored\n")
			continue
		case e.err != nil:
			b.WriteString("invalid\n")
			continue
		case e.deleted:
			b.WriteString("delete ")
		default:
			b.WriteString("push ")
		}
		b.WriteString(e.ref.String())
		if e.id != "" {
			b.WriteString(" id")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestSamples(t *testing.T) {
	seen := map[Type]bool{}
	for _, s := range samples(t) {
		seen[s.kind] = true
		t.Run(s.name, func(t *testing.T) {
			if err := checkJSON(s.body); err != nil {
				t.Fatal(err)
			}
			parse, err := parserOf(s.kind)
			if err != nil {
				t.Fatal(err)
			}
			es, err := parse(s.message())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(s.want, words(es)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	for _, kind := range types() {
		if !seen[kind] {
			t.Errorf("no sample of %s", kind)
		}
	}
}

func types() []Type {
	return []Type{DockerHub, Harbor, GHCR, Quay, ACR, Distribution, GitLab, ECR, ArtifactRegistry, JFrog, CloudEvents}
}

// TestNoPayload: what is no payload of a type is an error, and no empty list.
func TestNoPayload(t *testing.T) {
	bodies := map[string]string{
		"empty object": `{}`, "array": `[]`, "null": `null`, "text": `"push"`, "number": `1`,
		"other type": `{"repository": 7, "push_data": 7, "events": 7, "type": 7, "package": 7, "registry_package": 7, "updated_tags": 7, "message": 7, "event_type": 7, "source": 7, "action": 7, "specversion": 7}`,
	}
	for _, kind := range types() {
		parse, err := parserOf(kind)
		if err != nil {
			t.Fatal(err)
		}
		for name, body := range bodies {
			es, err := parse(&message{receiver: &Receiver{Type: kind, Upstream: "lab"}, header: http.Header{}, body: []byte(body)})
			for _, e := range es {
				if err == nil && !e.ignored && e.err == nil {
					t.Errorf("%s, %s: made %v", kind, name, e)
				}
			}
			if err == nil && len(es) == 0 {
				t.Errorf("%s, %s: neither events nor an error", kind, name)
			}
		}
	}
}

func TestCheckJSON(t *testing.T) {
	for name, tt := range map[string]struct {
		body string
		ok   bool
	}{
		"object":             {`{"a": {"b": [1, {"a": null}]}, "b": {"a": 1}}`, true},
		"spaces":             {" {}\n", true},
		"empty":              {``, false},
		"cut":                {`{"a": 1`, false},
		"two values":         {`{} {}`, false},
		"garbage behind":     {`{} x`, false},
		"key twice":          {`{"a": 1, "b": 2, "a": 3}`, false},
		"key twice, escaped": {`{"a": 1, "\u0061": 3}`, false},
		"key twice, deep":    {`[{"x": {"a": 1, "a": 2}}]`, false},
		"as a value":         {`{"a": "a", "b": "a"}`, true},
		"deep":               {strings.Repeat(`[`, 31) + strings.Repeat(`]`, 31), true},
		"too deep":           {strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat(`}`, 40), false},
		"much too deep":      {strings.Repeat(`[`, 500_000), false},
		"no UTF-8":           {"{\"a\": \"\xff\"}", true}, // replaced, and then no name of anything
	} {
		if err := checkJSON([]byte(tt.body)); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
