package strictyaml

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

func isDuration(t reflect.Type) bool { return t == reflect.TypeFor[time.Duration]() }

// readsText reports whether a type has a grammar of its own.
func readsText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func isScalar(v reflect.Value) bool {
	if isDuration(v.Type()) || readsText(v.Type()) {
		return true
	}
	switch v.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64, reflect.Float64:
		return true
	default:
		return false
	}
}

func assignNode(v reflect.Value, n *yaml.Node) error {
	if v.Kind() == reflect.Bool && n.ShortTag() != "!!bool" {
		return fmt.Errorf("want true or false, not %q", n.Value)
	}
	return Assign(v, n.Value)
}

// Assign reads text into a scalar, or, separated by commas, into a list of
// scalars.
func Assign(v reflect.Value, text string) error {
	switch {
	case isDuration(v.Type()):
		d, err := ParseDuration(text)
		if err != nil {
			return err
		}
		v.SetInt(int64(d))
		return nil
	case readsText(v.Type()):
		return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		if err := Assign(p.Elem(), text); err != nil {
			return err
		}
		v.Set(p)
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		switch strings.ToLower(text) {
		case "true":
			v.SetBool(true)
		case "false":
			v.SetBool(false)
		default:
			return fmt.Errorf("want true or false, not %q", text)
		}
	case reflect.Int, reflect.Int64:
		i, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("want a whole number, not %q", text)
		}
		v.SetInt(i)
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || f != f {
			return fmt.Errorf("want a number, not %q", text)
		}
		v.SetFloat(f)
	case reflect.Interface:
		v.Set(reflect.ValueOf(untyped(text)))
	case reflect.Slice:
		out := reflect.MakeSlice(v.Type(), 0, 4)
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			item := reflect.New(v.Type().Elem()).Elem()
			if err := Assign(item, part); err != nil {
				return err
			}
			out = reflect.Append(out, item)
		}
		v.Set(out)
	default:
		return errors.New("not a single value; name one of its keys")
	}
	return nil
}

// untyped is what text means where any type may stand: a switch, a whole number
// in its canonical form, or itself.
func untyped(text string) any {
	switch text {
	case "true":
		return true
	case "false":
		return false
	}
	if i, err := strconv.Atoi(text); err == nil && strconv.Itoa(i) == text {
		return i
	}
	return text
}

// ParseDuration reads Go's durations ("25s", "1h30m") and whole days ("7d").
func ParseDuration(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 32)
		if err == nil && n >= -36500 && n <= 36500 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("want a duration such as 25s, 10m, 1h30m or 7d, not %q", text)
	}
	return d, nil
}
