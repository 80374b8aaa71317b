package config

import (
	"strings"
	"testing"
)

func TestSinks(t *testing.T) {
	for name, tc := range map[string]struct{ yaml, want string }{
		"all keys":     {`{name: /lab, sinks: {a: {url: "https://example.com/x", format: template, template: t, secretFile: s, types: ["verdict.*"], repositories: ["lab/**"]}}}`, ""},
		"private":      {`{sinks: {a: {url: "http://127.0.0.1:1/x", private: true}}}`, ""},
		"no name":      {`{name: ""}`, "notify.name"},
		"name":         {`{name: "a b"}`, "want a URI"},
		"no url":       {`{sinks: {a: {format: slack}}}`, "has no url"},
		"scheme":       {`{sinks: {a: {url: "ftp://example.com/s3cret"}}}`, "want https"},
		"user":         {`{sinks: {a: {url: "https://me:s3cret@example.com/"}}}`, "holds a user"},
		"plain":        {`{sinks: {a: {url: "http://example.com/s3cret"}}}`, "plain http"},
		"inside":       {`{sinks: {a: {url: "https://10.0.0.1/s3cret"}}}`, "private address"},
		"metadata":     {`{sinks: {a: {url: "http://169.254.169.254/s3cret", private: true}}}`, "link-local"},
		"format":       {`{sinks: {a: {url: "https://example.com/", format: fax}}}`, "want cloudevents"},
		"no template":  {`{sinks: {a: {url: "https://example.com/", format: template}}}`, "want a file"},
		"template for": {`{sinks: {a: {url: "https://example.com/", template: t}}}`, "for no other"},
		"empty glob":   {`{sinks: {a: {url: "https://example.com/", types: [""]}}}`, "types[0]"},
		"sink's name":  {`{sinks: {"a b": {url: "https://example.com/"}}}`, "want a name"},
		"unknown key":  {`{sinks: {a: {url: "https://example.com/", secret: s}}}`, "secretFile"},
	} {
		_, err := Load(write(t, "notify: "+tc.yaml+"\n"), nil, nil)
		switch {
		case tc.want == "" && err != nil, tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		case err != nil && strings.Contains(err.Error(), "s3cret"):
			t.Errorf("%s: shows the URL: %v", name, err)
		}
	}
	c, err := Load(write(t, "notify: {sinks: {chat: {format: slack}}}\n"), []string{"PRATIQUE_NOTIFY_SINKS_CHAT_URL=https://example.com/x"}, nil)
	if err != nil || c.Notify.Sinks["chat"].URL != "https://example.com/x" {
		t.Errorf("URL from the environment: %+v, %v", c.Notify, err)
	}
}
