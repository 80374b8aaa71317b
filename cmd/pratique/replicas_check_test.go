package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRedisIsChecked: `config check` reads the files of state.redis as the server does.
func TestRedisIsChecked(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	password, empty, none := file("password", "secret\n"), file("empty", "\n"), filepath.Join(dir, "none")
	for name, tc := range map[string]struct {
		more, want string
		code       int
	}{
		"well":                   {fmt.Sprintf("passwordFile: %q", password), "redis://127.0.0.1:1/0", 0},
		"a secret of elsewhere":  {fmt.Sprintf("passwordFile: %q", none), "redis://127.0.0.1:1/0", 0},
		"an empty password":      {fmt.Sprintf("passwordFile: %q", empty), empty + " is empty", 1},
		"an authority of no use": {fmt.Sprintf("ca: %q", password), "state.redis.ca: no certificate in " + password, 1},
		"no certificate":         {fmt.Sprintf("cert: %q, key: %q", password, password), "state.redis: tls", 1},
	} {
		t.Run(name, func(t *testing.T) {
			path := file("pratique.yaml", fmt.Sprintf("dataDir: %q\nstate: {redis: {url: 'redis://127.0.0.1:1/0', %s}}\nstorage: {driver: filesystem, parameters: {rootdirectory: %q}}\n", dir, tc.more, dir))
			got := runCommand(t, "", "config", "check", path)
			if got.code != tc.code || !strings.Contains(got.out+got.errout, tc.want) {
				t.Errorf("exit %d, want %d with %q\n%s%s", got.code, tc.code, tc.want, got.out, got.errout)
			}
			if strings.Contains(got.out+got.errout, "secret") {
				t.Error("shows the password")
			}
		})
	}
}
