package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique/internal/strictyaml"
)

var update = flag.Bool("update", false, "rewrite the keys in docs/configuration.md")

// Marks around what is generated in docs/configuration.md.
const (
	manual      = "../../docs/configuration.md"
	keysBegin   = "<!-- keys: made from the structs of internal/config by `go test ./internal/config -update` -->\n"
	keysEnd     = "<!-- /keys -->\n"
	placeholder = "KEY"
)

// TestManual keeps docs/configuration.md equal to the structs: every key, its
// type, its default, its variable and its comment.
func TestManual(t *testing.T) {
	data, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), keysBegin)
	_, after, ok2 := strings.Cut(rest, keysEnd)
	if !ok || !ok2 {
		t.Fatal("the marks of the generated part are missing")
	}
	want := before + keysBegin + writeManual(t) + keysEnd + after
	if *update {
		if err := os.WriteFile(manual, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("docs/configuration.md is not what the structs say; run go test ./internal/config -update (-want +file):\n%s", diff)
	}
}

// author writes the manual from the source of the structs.
type author struct {
	t       *testing.T
	structs map[string]*ast.StructType
	out     strings.Builder
}

func writeManual(t *testing.T) string {
	a := &author{t: t, structs: map[string]*ast.StructType{}}
	for _, name := range []string{"config.go", "evidence.go", "continuous.go", "replicas.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok {
					a.structs[spec.Name.Name] = s
				}
			}
			return true
		})
	}
	c := Default()
	// One entry each that shows the keys of an upstream and of an identity, all of
	// them at their zero.
	c.Upstreams = map[string]Upstream{placeholder: {}}
	c.Trust.Identities = map[string]Identity{placeholder: {}}
	c.Notify.Sinks = map[string]Sink{placeholder: {}}
	a.object(reflect.ValueOf(c), "", 2)
	return a.out.String()
}

// object writes the keys of a struct, each with what stands below it.
func (a *author) object(v reflect.Value, path string, depth int) {
	docs := a.comments(v.Type().Name())
	for _, f := range strictyaml.Fields(v.Type()) {
		name := v.Type().Field(f.Index).Name
		field, at := v.Field(f.Index), strictyaml.Join(path, f.Name)
		text := docs[name]
		if text == "" {
			a.t.Errorf("%s.%s has no comment", v.Type().Name(), name)
		}
		for _, verb := range []string{" is ", " are "} {
			text = strings.TrimPrefix(text, name+verb)
		}
		text = strings.ToUpper(text[:1]) + text[1:]
		below := field
		if field.Kind() == reflect.Map && field.Type().Elem().Kind() == reflect.Struct {
			below, at = field.MapIndex(reflect.ValueOf(placeholder)), at+"."+placeholder
		}
		if below.Kind() == reflect.Struct {
			fmt.Fprintf(&a.out, "\n%s %s\n%s\n", strings.Repeat("#", min(depth, 4)), at, text)
			a.object(below, at, depth+1)
			continue
		}
		variable := EnvName(at)
		if strings.Contains(at, placeholder) {
			variable = strings.Replace(variable, "_"+placeholder+"_", "_<KEY>_", 1)
		}
		if field.Kind() == reflect.Map {
			variable += "_<NAME>"
		}
		if path == "" {
			fmt.Fprintf(&a.out, "\n## %s\n", at)
		}
		fmt.Fprintf(&a.out, "\n- **`%s`** (%s, default %s, `%s`): %s\n", at, typeName(field), defaultText(field, at), variable, text)
	}
}

// comments are those of a struct's fields, as one line each.
func (a *author) comments(name string) map[string]string {
	s, ok := a.structs[name]
	if !ok {
		a.t.Fatalf("no struct %s in config.go, evidence.go or continuous.go", name)
	}
	out := map[string]string{}
	for _, f := range s.Fields.List {
		for _, n := range f.Names {
			out[n.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
		}
	}
	return out
}

func typeName(v reflect.Value) string {
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		return "duration"
	case v.Type() == reflect.TypeFor[Size]():
		return "size"
	case v.Kind() == reflect.Slice:
		return "list"
	case v.Kind() == reflect.Map:
		return "mapping"
	case v.Kind() == reflect.Bool:
		return "true or false"
	case v.Kind() == reflect.Int:
		return "number"
	case v.Type() == reflect.TypeFor[string]():
		return "text"
	}
	return "word"
}

func defaultText(v reflect.Value, path string) string {
	switch {
	case path == "upstreams."+placeholder+".url", path == "notify.sinks."+placeholder+".url":
		return "none: it must be given"
	case v.Kind() == reflect.Slice && v.Len() == 0, v.Kind() == reflect.String && v.Len() == 0:
		return "none"
	case v.Kind() == reflect.Map:
		var parts []string
		for _, k := range v.MapKeys() {
			parts = append(parts, fmt.Sprintf("%s: %v", k, v.MapIndex(k)))
		}
		return "`{" + strings.Join(parts, ", ") + "}`"
	case v.Kind() == reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = fmt.Sprint(v.Index(i).Interface())
		}
		return "`[" + strings.Join(parts, ", ") + "]`"
	case v.Type() == reflect.TypeFor[time.Duration]():
		return "`" + short(time.Duration(v.Int())) + "`"
	}
	return fmt.Sprintf("`%v`", v.Interface())
}

// short writes a duration without its zero parts.
func short(d time.Duration) string {
	if day := 24 * time.Hour; d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
