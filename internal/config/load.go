package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"pratique"
	"pratique/internal/strictyaml"
)

// Environment variables that the commands read themselves.
const (
	// EnvServer is the admin address that client commands talk to.
	EnvServer = "PRATIQUE_SERVER"
	// EnvAnalyzer is a shorter name for scanner.analyzer.
	EnvAnalyzer = "PRATIQUE_ANALYZER"

	// envMarker marks the processes of an end-to-end test.
	envMarker = "PRATIQUE_E2E"

	envPrefix = "PRATIQUE_"
)

// Load reads the configuration: the defaults, then the file at path (none if
// path is empty), then the environment (as os.Environ returns it), then sets,
// each PATH=VALUE as a --set flag gives it. The error joins every mistake found
// and wraps pratique.ErrInvalid; a file that cannot be read is its own error.
func Load(path string, env, sets []string) (Config, error) {
	var data []byte
	if path != "" {
		var err error
		if data, err = readFile(path); err != nil {
			return Config{}, fmt.Errorf("configuration: %w", err)
		}
	}
	return parse(path, data, env, sets)
}

// parse is Load after the reading.
func parse(path string, data []byte, env, sets []string) (Config, error) {
	l := loader{config: base(), sources: map[string]string{}}
	var err error
	if l.positions, err = strictyaml.Decode(path, data, &l.config); err != nil {
		return Config{}, invalid{err}
	}
	if err := errors.Join(l.environment(env), l.flags(sets)); err != nil {
		return Config{}, invalid{err}
	}
	l.config.complete()
	if err := l.validate(); err != nil {
		return Config{}, invalid{err}
	}
	return l.config, nil
}

// readFile reads one byte more than is accepted, so that a device or a mistaken
// path cannot fill the memory.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, strictyaml.MaxSize+1))
}

// invalid marks mistakes as pratique.ErrInvalid without adding words.
type invalid struct{ error }

func (e invalid) Unwrap() []error { return []error{pratique.ErrInvalid, e.error} }

type loader struct {
	config    Config
	positions strictyaml.Positions // in the file
	sources   map[string]string    // variable or flag that set a path, for messages
}

// where says what set the value at path, for the beginning of a message.
func (l *loader) where(path string) string {
	if s, ok := l.sources[path]; ok {
		return s
	}
	if p, ok := l.positions[path]; ok {
		return p.String() + ": " + path
	}
	return path
}

// flags applies --set PATH=VALUE.
func (l *loader) flags(sets []string) error {
	var errs []error
	for _, s := range sets {
		path, value, ok := strings.Cut(s, "=")
		if !ok {
			errs = append(errs, fmt.Errorf("--set %s: want PATH=VALUE, for example registry.listen=:5001", s))
			continue
		}
		l.sources[path] = "--set " + path
		if err := set(reflect.ValueOf(&l.config).Elem(), path, value); err != nil {
			errs = append(errs, fmt.Errorf("--set %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

// parametersEnv begins the variables of storage parameters, which may name ones
// that the file does not have: secrets are often given so.
const parametersEnv = envPrefix + "STORAGE_PARAMETERS_"

// environment applies PRATIQUE_* variables. One that names no key is a mistake.
func (l *loader) environment(env []string) error {
	root := reflect.ValueOf(&l.config).Elem()
	names := map[string][]string{}
	for _, path := range Paths(l.config) {
		name := EnvName(path)
		names[name] = append(names[name], path)
	}
	var errs []error
	for _, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, envPrefix) || name == EnvServer || name == envMarker {
			continue
		}
		paths := names[name]
		switch {
		case name == EnvAnalyzer:
			paths = []string{"scanner.analyzer"}
		case len(paths) == 0 && strings.HasPrefix(name, parametersEnv):
			paths = []string{"storage.parameters." + strings.ToLower(strings.TrimPrefix(name, parametersEnv))}
		}
		switch len(paths) {
		case 0:
			if !serviceLink.MatchString(name) {
				errs = append(errs, fmt.Errorf("environment variable %s: no such key%s", name, suggestEnv(name, names)))
			}
		case 1:
			l.sources[paths[0]] = "environment variable " + name
			if err := set(root, paths[0], value); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
			}
		default:
			errs = append(errs, fmt.Errorf("environment variable %s: may mean %s; use --set", name, strictyaml.List(paths, "or")))
		}
	}
	return errors.Join(errs...)
}

// serviceLink fits the variables that Kubernetes sets in every pod of a
// namespace that has a Service named pratique or pratique-something. They are
// not ours. No key of the configuration fits it; a test holds that.
var serviceLink = regexp.MustCompile(`^PRATIQUE_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

func suggestEnv(name string, names map[string][]string) string {
	known := make([]string, 0, len(names))
	for n := range names {
		known = append(known, n)
	}
	slices.Sort(known)
	if s := strictyaml.Suggest(name, known); s != "" {
		return s
	}
	return "; `pratique config check` and docs/configuration.md list them"
}

// Paths lists the keys of c that hold a single value or a list of them, those of
// the entries of its maps included.
func Paths(c Config) []string {
	var out []string
	walk(reflect.ValueOf(c), "", func(path string, _ reflect.Value) { out = append(out, path) })
	return out
}

// Differences lists, sorted, the keys whose values are not the same in a and b,
// or that only one of them has.
func Differences(a, b Config) []string {
	values := func(c Config) map[string]any {
		out := make(map[string]any)
		walk(reflect.ValueOf(c), "", func(path string, v reflect.Value) { out[path] = v.Interface() })
		return out
	}
	was, is := values(a), values(b)
	var out []string
	for path, v := range was {
		if other, ok := is[path]; !ok || !reflect.DeepEqual(v, other) {
			out = append(out, path)
		}
	}
	for path := range is {
		if _, ok := was[path]; !ok {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

func walk(v reflect.Value, path string, visit func(string, reflect.Value)) {
	switch v.Kind() {
	case reflect.Struct:
		fields := strictyaml.Fields(v.Type())
		if len(fields) == 0 {
			visit(path, v)
		}
		for _, f := range fields {
			walk(v.Field(f.Index), strictyaml.Join(path, f.Name), visit)
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			walk(v.MapIndex(k), strictyaml.Join(path, k.String()), visit)
		}
	default:
		visit(path, v)
	}
}

var wordBoundary = regexp.MustCompile(`([a-z0-9])([A-Z])`)

// EnvName is the environment variable that overrides the key at path:
// registry.maxHeld is PRATIQUE_REGISTRY_MAX_HELD, upstreams.docker.io.url is
// PRATIQUE_UPSTREAMS_DOCKER_IO_URL.
func EnvName(path string) string {
	path = wordBoundary.ReplaceAllString(path, "${1}_${2}")
	return envPrefix + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(path))
}

// set assigns text to the key at path below v.
func set(v reflect.Value, path, text string) error {
	if path == "" || v.Kind() == reflect.Slice {
		if path != "" {
			return errors.New("a list is set whole, its parts separated by commas")
		}
		return strictyaml.Assign(v, text)
	}
	switch v.Kind() {
	case reflect.Map:
		return setEntry(v, path, text)
	case reflect.Struct:
		fields := strictyaml.Fields(v.Type())
		key, rest, _ := strings.Cut(path, ".")
		names := make([]string, len(fields))
		for i, f := range fields {
			if names[i] = f.Name; f.Name == key {
				return set(v.Field(f.Index), rest, text)
			}
		}
		return fmt.Errorf("unknown key %q%s", key, strictyaml.Suggest(key, names))
	default:
		return fmt.Errorf("nothing is below this key, so not %q", path)
	}
}

// setEntry assigns within an entry of a map. Keys such as docker.io hold dots,
// so the first split is taken whose rest is a key of the entry.
func setEntry(v reflect.Value, path, text string) error {
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	elem := v.Type().Elem()
	if elem.Kind() == reflect.Interface {
		item := reflect.New(elem).Elem()
		if err := strictyaml.Assign(item, text); err != nil {
			return err
		}
		v.SetMapIndex(reflect.ValueOf(path), item)
		return nil
	}
	var failed error
	for i := range len(path) {
		if path[i] != '.' || i == 0 {
			continue
		}
		item := reflect.New(elem).Elem()
		key := reflect.ValueOf(path[:i])
		if old := v.MapIndex(key); old.IsValid() {
			item.Set(old)
		}
		if failed = set(item, path[i+1:], text); failed == nil {
			v.SetMapIndex(key, item)
			return nil
		}
	}
	if failed == nil {
		failed = errors.New("want the entry's key and one of its own, such as upstreams.lab.url")
	}
	return failed
}
