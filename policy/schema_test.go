package policy

import (
	"bytes"
	"encoding"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"pratique"
	"pratique/internal/strictyaml"
)

// The JSON Schema of policy files, for editors: made from the structs that read
// them, so that it cannot forget a key. What it cannot say (that globs can fit,
// that rules exist which others lift) is for `pratique policy check`.

const schemaPath = "../configs/policies/schema.json"

// wordsOf are the words of the types that have a grammar of their own.
var wordsOf = map[reflect.Type][]string{
	reflect.TypeFor[modeWord]():         {"enforce", "warn"},
	reflect.TypeFor[actionWord]():       {"deny", "warn", "allow", "exempt"},
	reflect.TypeFor[pratique.Outcome](): {"deny", "allow"}, // of a default: warn is refused by the compiler
	reflect.TypeFor[severityWord]():     severityWords,
	reflect.TypeFor[categoryWord]():     categories,
	reflect.TypeFor[statusWord]():       statuses,
	reflect.TypeFor[clockWord]():        clockWords,
	reflect.TypeFor[levelWord]():        levelWords,
}

// object is JSON with sorted keys.
type schemaObject = map[string]any

type schemaAuthor struct {
	t    *testing.T
	docs map[string]string // TYPE.FIELD → its comment
}

const durationPattern = `^([0-9]+d|([0-9]+(\.[0-9]+)?(h|m|s|ms))+)$`

func duration(doc string) schemaObject {
	return described(schemaObject{"type": "string", "pattern": durationPattern}, doc)
}

func described(o schemaObject, doc string) schemaObject {
	if doc != "" {
		o["description"] = doc
	}
	return o
}

// of writes the schema of a type.
func (a *schemaAuthor) of(t reflect.Type, path, doc string) schemaObject {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch words := wordsOf[t]; {
	case words != nil:
		return described(schemaObject{"enum": words}, doc)
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		a.t.Fatalf("%s: say in wordsOf which words a %s has", path, t)
	case path == "rules.misconfiguration.set":
		return described(schemaObject{"enum": benchmarks()}, doc)
	case path == "rules.grace":
		severities := schemaObject{}
		for _, word := range []string{"unknown", "low", "medium", "high", "critical", "default", "kev"} {
			severities[word] = duration("")
		}
		return described(schemaObject{"oneOf": []any{duration(""), schemaObject{
			"type": "object", "properties": severities, "additionalProperties": false, "minProperties": 1,
		}}}, doc)
	case t == reflect.TypeFor[time.Duration]():
		return duration(doc)
	}
	switch t.Kind() {
	case reflect.String:
		return described(schemaObject{"type": []string{"string", "number", "boolean"}}, doc) // as YAML reads 1.27 and true
	case reflect.Bool:
		return described(schemaObject{"type": "boolean"}, doc)
	case reflect.Float64:
		return described(schemaObject{"type": "number"}, doc)
	case reflect.Slice:
		return described(schemaObject{"type": "array", "items": a.of(t.Elem(), path, "")}, doc)
	case reflect.Struct:
		return described(a.object(t, path), doc)
	default:
		a.t.Fatalf("%s: no schema for a %s", path, t)
		return nil
	}
}

func (a *schemaAuthor) object(t reflect.Type, path string) schemaObject {
	properties := schemaObject{}
	for _, f := range strictyaml.Fields(t) {
		field := t.Field(f.Index)
		doc := a.docs[t.Name()+"."+field.Name]
		properties[f.Name] = a.of(field.Type, strings.TrimPrefix(path+"."+f.Name, "."), doc)
	}
	return schemaObject{"type": "object", "properties": properties, "additionalProperties": false}
}

// rule adds which keys belong together: one condition, but for exempt rules.
func (a *schemaAuthor) rule(rule schemaObject) {
	_, conditions := new(ruleDocument).conditions()
	one := make([]any, len(conditions))
	for i, key := range conditions {
		one[i] = schemaObject{"required": []string{key}}
	}
	rule["required"] = []string{"name", "action"}
	rule["if"] = schemaObject{"properties": schemaObject{"action": schemaObject{"const": "exempt"}}, "required": []string{"action"}}
	rule["then"] = schemaObject{"required": []string{"lifts", "match", "message"}, "oneOf": append([]any{schemaObject{"not": schemaObject{"anyOf": one}}}, one...)}
	rule["else"] = schemaObject{"oneOf": one, "properties": schemaObject{"lifts": false}}
}

func schemaOf(t *testing.T) []byte {
	t.Helper()
	a := &schemaAuthor{t: t, docs: fieldComments(t)}
	out := a.object(reflect.TypeFor[document](), "")
	properties, ok := out["properties"].(schemaObject)
	rules, ok2 := properties["rules"].(schemaObject)
	if !ok || !ok2 {
		t.Fatal("the document has no rules")
	}
	rule, ok := rules["items"].(schemaObject)
	if !ok {
		t.Fatal("rules have no items")
	}
	a.rule(rule)
	rules["minItems"] = 1
	for _, o := range []schemaObject{out, rule} {
		if p, ok := o["properties"].(schemaObject); ok {
			p["name"] = schemaObject{"type": "string", "pattern": namePattern.String()}
		}
	}
	out["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	out["$comment"] = "Made from package policy by `go test ./policy -run Schema -update`."
	out["title"] = "Pratique policy"
	out["required"] = []string{"name", "rules"}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", " ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(out); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// fieldComments are the comments behind the fields of the package's structs.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), source, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range s.Fields.List {
					for _, name := range f.Names {
						out[spec.Name.Name+"."+name.Name] = strings.TrimSpace(f.Comment.Text())
					}
				}
			}
			return true
		})
	}
	return out
}

func TestSchemaIsThatOfTheGrammar(t *testing.T) {
	want := schemaOf(t)
	if *update {
		if err := os.WriteFile(schemaPath, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(schemaPath)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the schema is not that of the structs; rewrite it with -update (-want +file):\n%s", diff)
	}
}

func TestSchemaHasTheWords(t *testing.T) {
	for typ, words := range wordsOf {
		for _, word := range append(slices.Clone(words), "nonsense") {
			u, ok := reflect.New(typ).Interface().(encoding.TextUnmarshaler)
			if !ok {
				t.Fatalf("%s has no grammar", typ)
			}
			if err := u.UnmarshalText([]byte(word)); (err == nil) != (word != "nonsense") {
				t.Errorf("%s %q: %v", typ, word, err)
			}
		}
	}
}

func compiledSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schemaOf(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// validate holds a file against the schema as an editor does.
func validate(t *testing.T, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	var raw any
	if err := yaml.Unmarshal(text, &raw); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

// TestSchemaAcceptsWhatLoads: what ships is valid, and so is a policy that uses
// every key there is.
func TestSchemaAcceptsWhatLoads(t *testing.T) {
	s := compiledSchema(t)
	paths, err := filepath.Glob("../configs/policies/*.yaml")
	if err != nil || len(paths) < 5 {
		t.Fatal(paths, err)
	}
	texts := map[string]string{"every key": everyKey}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(data)
	}
	for name, text := range texts {
		if _, err := Load(File{Name: name, Data: []byte(text)}); err != nil {
			t.Errorf("Load: %v", err)
		}
		if err := validate(t, s, []byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	used := make(map[string]bool)
	var raw any
	if err := yaml.Unmarshal([]byte(everyKey), &raw); err != nil {
		t.Fatal(err)
	}
	keysOf(raw, "", used)
	var unused []string
	grammarKeys(reflect.TypeFor[document](), "", func(path string) {
		if !used[path] {
			unused = append(unused, path)
		}
	})
	if len(unused) > 0 {
		t.Errorf("everyKey lacks %v", unused)
	}
}

func keysOf(v any, path string, used map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, child := range v {
			p := strings.TrimPrefix(path+"."+k, ".")
			used[p] = true
			keysOf(child, p, used)
		}
	case []any:
		for _, child := range v {
			keysOf(child, path, used)
		}
	}
}

func grammarKeys(t reflect.Type, path string, each func(string)) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return
	}
	for _, f := range strictyaml.Fields(t) {
		p := strings.TrimPrefix(path+"."+f.Name, ".")
		each(p)
		grammarKeys(t.Field(f.Index).Type, p, each)
	}
}

const everyKey = `
name: every-key
mode: enforce
default: allow
rules:
  - name: a
    match: {upstream: [docker.io], repository: [library/**], tag: ["1.*"], platform: [linux/amd64], artifactType: [application/*], client: [10.0.0.0/8]}
    except: {upstream: [quay.io], repository: [a], tag: [v1], platform: [linux/arm64], artifactType: [a], client: [10.1.0.0/16]}
    vulnerability: {severity: HIGH, unknownSeverity: true, fixable: true, status: [fixed, affected], cvss: 7.0, ids: [CVE-2024-*], packages: [openssl*], ecosystems: [debian], kev: true, epss: 0.1}
    grace: {critical: 3d, high: 14d, unknown: 1d, medium: 20d, low: 30d, default: 30d, kev: 1d}
    action: deny
    message: no
  - {name: b, action: warn, always: {}, match: {tag: [1.27, latest]}}
  - {name: c, action: deny, grace: 36h, secret: {severity: LOW, ids: [aws-*]}}
  - {name: d, action: deny, misconfiguration: {severity: LOW, ids: [DS-0002]}}
  - {name: e, action: deny, misconfiguration: {set: docker-cis-1.6.0}}
  - {name: f, action: warn, license: {names: [GPL-*], categories: [forbidden]}}
  - {name: g, action: warn, endOfLife: {within: 90d}}
  - {name: h, action: warn, imageAge: {olderThan: 90d, by: created}}
  - {name: i, action: deny, cooldown: {youngerThan: 3d, by: either}}
  - {name: j, action: warn, tagMoved: {longerThan: 1d}}
  - {name: k, action: warn, outdated: {within: patch, longerThan: 1d}}
  - {name: l, action: warn, baseOutdated: {longerThan: 1d}}
  - {name: m, action: warn, scanAge: {olderThan: 1d}}
  - {name: n, action: warn, databaseAge: {olderThan: 1d}}
  - {name: o, action: warn, unusedFor: {longerThan: 1d}}
  - {name: p, action: deny, signature: {by: [key]}}
  - {name: q, action: deny, provenance: {by: [ci], builder: [https://**], source: [git+**]}}
  - {name: r, action: deny, expression: image.user == "root"}
  - {name: s, action: deny, unscanned: {}}
  - {name: t, action: deny, incomplete: {}}
  - {name: u, action: deny, scanFailed: {}}
  - {name: v, action: warn, unsupported: {}}
  - {name: w, action: exempt, match: {repository: [a]}, lifts: [a, unscanned], message: why}
`

// TestSchemaRefuses what an editor should underline.
func TestSchemaRefuses(t *testing.T) {
	s := compiledSchema(t)
	for name, text := range map[string]string{
		"a key that is none":        "name: p\nrules: [{name: a, action: deny, secret: {}, grase: 1d}]",
		"an action that is none":    "name: p\nrules: [{name: a, action: refuse, secret: {}}]",
		"a default that is none":    "name: p\ndefault: warn\nrules: [{name: a, action: deny, secret: {}}]",
		"a severity in lower case":  "name: p\nrules: [{name: a, action: deny, secret: {severity: high}}]",
		"no condition":              "name: p\nrules: [{name: a, action: deny}]",
		"two conditions":            "name: p\nrules: [{name: a, action: deny, secret: {}, always: {}}]",
		"no rules":                  "name: p\nrules: []",
		"no name":                   "rules: [{name: a, action: deny, secret: {}}]",
		"an exempt rule for all":    "name: p\nrules: [{name: a, action: exempt, lifts: [b], message: m}]",
		"an exempt rule for no one": "name: p\nrules: [{name: a, action: exempt, match: {tag: [a]}, message: m}]",
		"two conditions, exempt":    "name: p\nrules: [{name: a, action: exempt, match: {tag: [a]}, lifts: [b], message: m, secret: {}, always: {}}]",
		"lifts of another rule":     "name: p\nrules: [{name: a, action: deny, secret: {}, lifts: [b]}]",
		"a duration without unit":   "name: p\nrules: [{name: a, action: deny, cooldown: {youngerThan: 3}}]",
		"grace for nobody":          "name: p\nrules: [{name: a, action: deny, secret: {}, grace: {}}]",
		"a benchmark nobody knows":  "name: p\nrules: [{name: a, action: deny, misconfiguration: {set: cis}}]",
	} {
		if err := validate(t, s, []byte(text)); err == nil {
			t.Errorf("%s is valid", name)
		}
		if _, err := Load(File{Name: "p.yaml", Data: []byte(text)}); err == nil {
			t.Errorf("%s loads", name)
		}
	}
}
