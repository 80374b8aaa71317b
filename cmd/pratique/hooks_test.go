package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHooksAreChecked: `config check` reads the files of hooks as the server does, and
// shows no secret.
func TestHooksAreChecked(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, short, empty := write("good", "0123456789abcdef0123\n"), write("short", "hunter2"), write("empty", "\n")
	for name, tt := range map[string]struct{ hook, want string }{
		"good":         {"{type: quay, upstream: lab, secretFile: " + good + "}", ""},
		"google":       {"{type: artifact-registry, upstream: lab, audience: a, account: b}", ""},
		"no file":      {"{type: quay, upstream: lab, secretFile: " + dir + "/none}", "none"},
		"empty":        {"{type: quay, upstream: lab, secretFile: " + empty + "}", "holds no secret"},
		"short":        {"{type: quay, upstream: lab, secretFile: " + short + "}", "fewer than 16"},
		"no secret":    {"{type: quay, upstream: lab}", "secretFile"},
		"no such type": {"{type: nexus, upstream: lab, secretFile: " + good + "}", "nexus"},
		"no upstream":  {"{type: quay, upstream: other, secretFile: " + good + "}", "other"},
		"no keys":      {"{type: artifact-registry, upstream: lab, audience: a, account: b, keysURL: keys}", "keys"},
	} {
		file := configuration(t, "127.0.0.1:1", demoDatabase)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, "hooks: {from: {one: "+tt.hook+"}}\n"...)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		code := run(context.Background(), []string{"config", "check", file}, nil, &out, &out, nil)
		if (code == 0) != (tt.want == "") || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%s: exit %d: %s", name, code, out.String())
		}
		if strings.Contains(out.String(), "hunter2") || strings.Contains(out.String(), "0123456789abcdef") {
			t.Errorf("%s: shows a secret: %s", name, out.String())
		}
	}
}
