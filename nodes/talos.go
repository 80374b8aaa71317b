package nodes

import (
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"strings"
)

// talosFiles are patches of a Talos machine configuration: the documents of
// Talos 1.12 and later, and the section of the machine document before.
func talosFiles(s settled) []File {
	return []File{
		{Path: "talos/registries-1.12.yaml", Mode: s.talosMode(), Data: talosDocuments(s)},
		{Path: "talos/registries-before-1.12.yaml", Mode: s.talosMode(), Data: talosMachine(s)},
	}
}

// talosMode: the key and the login are in the file itself.
func (s settled) talosMode() fs.FileMode {
	if len(s.Key) > 0 || s.Username != "" {
		return modeSecret
	}
	return modePublic
}

func talosHead(t *text, versions string) {
	t.line("# Written by `pratique nodes config` for Talos %s, to be applied with", versions)
	t.line("# talosctl patch machineconfig --patch @THIS_FILE")
	t.line("#")
	t.line("# skipFallback is what closes the node: without it Talos lets containerd ask the")
	t.line("# registry itself when Pratique refuses or fails. Pratique is told which registry")
	t.line("# is meant (?ns=), so no path is overridden. \"*\" is every registry without an")
	t.line("# entry of its own.")
}

func talosDocuments(s settled) []byte {
	var t text
	talosHead(&t, "1.12 and later")
	for _, name := range append([]string{"*"}, names(s.Upstreams)...) {
		t.line("---")
		t.line("apiVersion: v1alpha1")
		t.line("kind: RegistryMirrorConfig")
		t.line("name: %q", name)
		t.line("endpoints:")
		t.line("  - url: %q", s.Server)
		t.line("skipFallback: true")
	}
	if s.Username != "" {
		t.line("---")
		t.line("apiVersion: v1alpha1")
		t.line("kind: RegistryAuthConfig")
		t.line("name: %q", s.host)
		t.line("username: %s", quoteYAML(s.Username))
		t.line("password: %s", quoteYAML(s.Password))
	}
	if len(s.CA)+len(s.Cert) > 0 {
		t.line("---")
		t.line("apiVersion: v1alpha1")
		t.line("kind: RegistryTLSConfig")
		t.line("name: %q", s.host)
	}
	if len(s.CA) > 0 {
		t.line("ca: |-")
		t.block("  ", s.CA)
	}
	if len(s.Cert) > 0 {
		t.line("clientIdentity:")
		t.line("  cert: |-")
		t.block("    ", s.Cert)
		t.line("  key: |-")
		t.block("    ", s.Key)
	}
	return t.Bytes()
}

func talosMachine(s settled) []byte {
	var t text
	talosHead(&t, "1.9 to 1.11")
	t.line("machine:")
	t.line("  registries:")
	t.line("    mirrors:")
	for _, name := range append([]string{"*"}, names(s.Upstreams)...) {
		t.line("      %q:", name)
		t.line("        endpoints:")
		t.line("          - %q", s.Server)
		t.line("        skipFallback: true")
	}
	if s.Username == "" && len(s.CA)+len(s.Cert) == 0 {
		return t.Bytes()
	}
	t.line("    config:")
	t.line("      %q:", s.host)
	if s.Username != "" {
		t.line("        auth:")
		t.line("          username: %s", quoteYAML(s.Username))
		t.line("          password: %s", quoteYAML(s.Password))
	}
	if len(s.CA)+len(s.Cert) > 0 {
		t.line("        tls:")
	}
	if len(s.CA) > 0 {
		t.line("          ca: %s", base64.StdEncoding.EncodeToString(s.CA))
	}
	if len(s.Cert) > 0 {
		t.line("          clientIdentity:")
		t.line("            crt: %s", base64.StdEncoding.EncodeToString(s.Cert))
		t.line("            key: %s", base64.StdEncoding.EncodeToString(s.Key))
	}
	return t.Bytes()
}

// block indents text of many lines under a YAML key.
func (t *text) block(indent string, data []byte) {
	for line := range strings.Lines(strings.TrimSpace(string(data)) + "\n") {
		t.line("%s%s", indent, strings.TrimRight(line, "\r\n"))
	}
}

// quoteYAML quotes any text: YAML's double-quoted strings take JSON's.
func quoteYAML(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always marshals
	}
	return string(b)
}
