package notify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	ce "github.com/cloudevents/sdk-go/v2/event"

	"pratique/store"
)

// Format is how a sink is written to.
type Format string

// Formats.
const (
	FormatStructured   Format = "cloudevents"        // CloudEvents 1.0, structured mode
	FormatBinary       Format = "cloudevents-binary" // CloudEvents 1.0, binary mode
	FormatSlack        Format = "slack"              // an incoming webhook of Slack
	FormatMattermost   Format = "mattermost"         // an incoming webhook of Mattermost
	FormatTeams        Format = "teams"              // a Teams workflow that begins with a webhook
	FormatDistribution Format = "distribution"       // the envelope in which registries notify
	FormatTemplate     Format = "template"           // a Go template
)

// chat tells whether people read the sink: then many changes with one cause are
// one message.
func (f Format) chat() bool {
	switch f {
	case FormatSlack, FormatMattermost, FormatTeams, FormatTemplate:
		return true
	case FormatStructured, FormatBinary, FormatDistribution:
	}
	return false
}

// Sink is one receiver.
type Sink struct {
	// URL is posted to. It may hold a secret and is never logged.
	URL string
	// Format of a request. If empty, FormatStructured.
	Format Format
	// Template is the text of FormatTemplate.
	Template string
	// Secret signs every request. If empty, none is signed.
	Secret []byte
	// Types are globs on types of events, with or without dev.pratique. If empty, all.
	Types []string
	// Repositories are globs on UPSTREAM/REPOSITORY; events that are about no
	// repository pass always. If empty, all.
	Repositories []string
	// Transport sends. It decides which addresses may be dialled. Required.
	Transport http.RoundTripper
}

// sink is a Sink, checked.
type sink struct {
	Sink
	name         string
	source       string
	base         string // of links; "" = none
	types        []*regexp.Regexp
	repositories []*regexp.Regexp
	template     *template.Template
}

func newSink(name, source, link string, s Sink) (*sink, error) {
	if s.Format == "" {
		s.Format = FormatStructured
	}
	out := &sink{Sink: s, name: name, source: source, base: strings.TrimRight(link, "/")}
	switch s.Format {
	case FormatStructured, FormatBinary, FormatSlack, FormatMattermost, FormatTeams, FormatDistribution:
	case FormatTemplate:
		var err error
		out.template, err = template.New(name).Option("missingkey=zero").Funcs(template.FuncMap{"json": asJSON}).Parse(s.Template)
		if err != nil {
			return nil, fmt.Errorf("sink %s: template: %w", name, err)
		}
	default:
		return nil, fmt.Errorf("sink %s: unknown format %q", name, s.Format)
	}
	if s.Transport == nil {
		return nil, fmt.Errorf("sink %s: no transport", name)
	}
	for _, g := range s.Types {
		out.types = append(out.types, glob(g, ".*"))
	}
	for _, g := range s.Repositories {
		out.repositories = append(out.repositories, glob(g, "[^/]*"))
	}
	return out, nil
}

// glob is a pattern: ** is any run, * a run of what star says, ? one of it.
func glob(pattern, star string) *regexp.Regexp {
	quoted := regexp.QuoteMeta(pattern)
	quoted = strings.ReplaceAll(quoted, `\*\*`, "\x00")
	quoted = strings.ReplaceAll(quoted, `\*`, star)
	quoted = strings.ReplaceAll(quoted, `\?`, strings.TrimSuffix(star, "*"))
	return regexp.MustCompile("^" + strings.ReplaceAll(quoted, "\x00", ".*") + "$")
}

// wants reports whether the sink is to be told. An envelope of a registry is about
// a repository, so that what is about none is not for who reads those.
func (s *sink) wants(e store.Event) bool {
	if s.Format == FormatDistribution && e.Repository == "" {
		return false
	}
	return fits(s.types, e.Type, strings.TrimPrefix(e.Type, typePrefix)) && (e.Repository == "" || fits(s.repositories, e.Repository))
}

// fits: no pattern is all.
func fits(patterns []*regexp.Regexp, texts ...string) bool {
	for _, p := range patterns {
		for _, t := range texts {
			if p.MatchString(t) {
				return true
			}
		}
	}
	return len(patterns) == 0
}

// message is one request to be sent.
type message struct {
	header http.Header
	body   []byte
	// signed is what the signature covers besides the body.
	signed string
}

// render writes an event as the sink wants it.
func (s *sink) render(e store.Event) (message, error) {
	switch s.Format {
	case FormatSlack:
		return slack(e, s.find(e))
	case FormatMattermost:
		return mattermost(e, s.find(e))
	case FormatTeams:
		return teams(e, s.find(e))
	case FormatDistribution:
		return s.distribution(e)
	case FormatTemplate:
		return s.templated(e)
	case FormatStructured, FormatBinary:
	}
	c := ce.New()
	c.SetID(e.ID)
	c.SetType(e.Type)
	c.SetSource(s.source)
	c.SetSubject(e.Subject)
	c.SetTime(e.At)
	if err := c.SetData(ce.ApplicationJSON, e.Data); err != nil {
		return message{}, err
	}
	if err := c.Validate(); err != nil {
		return message{}, err
	}
	if s.Format == FormatBinary {
		return binary(c), nil
	}
	body, err := json.Marshal(c)
	return message{header: http.Header{"Content-Type": {ce.ApplicationCloudEventsJSON + "; charset=utf-8"}}, body: body}, err
}

// binary puts the attributes into headers (CloudEvents HTTP binding 1.0, 3.1).
// They are signed too, else somebody could make another event of the body.
func binary(c ce.Event) message {
	m := message{header: http.Header{"Content-Type": {ce.ApplicationJSON}}, body: c.Data()}
	for _, a := range [][2]string{
		{"ce-id", c.ID()},
		{"ce-source", c.Source()},
		{"ce-specversion", c.SpecVersion()},
		{"ce-subject", c.Subject()},
		{"ce-time", c.Time().UTC().Format(time.RFC3339Nano)},
		{"ce-type", c.Type()},
	} {
		value := escapeHeader(a[1])
		m.header.Set(a[0], value)
		m.signed += a[0] + ":" + value + "\n"
	}
	return m
}

// escapeHeader is the binding's 3.1.3.2.
func escapeHeader(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r > ' ' && r < 0x7f && r != '"' && r != '%' {
			b.WriteRune(r)
			continue
		}
		for _, c := range utf8.AppendRune(nil, r) {
			_, _ = fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// textOf is the line for people.
func textOf(e store.Event) string {
	var data struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(e.Data, &data) != nil || data.Text == "" {
		return e.Type + " " + e.Subject
	}
	return data.Text
}

// maxBody bounds what a template may write.
const maxBody = 1 << 20

type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxBody {
		return 0, fmt.Errorf("more than %d bytes", maxBody)
	}
	return b.Buffer.Write(p)
}

func (s *sink) templated(e store.Event) (message, error) {
	data := map[string]any{}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		return message{}, err
	}
	var out bounded
	err := s.template.Execute(&out, map[string]any{
		"ID": e.ID, "Type": e.Type, "Source": s.source, "Subject": e.Subject, "Time": e.At, "Text": textOf(e), "Data": data,
		"Link": s.find(e),
	})
	kind := "text/plain; charset=utf-8"
	if json.Valid(out.Bytes()) {
		kind = "application/json; charset=utf-8"
	}
	return message{header: http.Header{"Content-Type": {kind}}, body: out.Bytes()}, err
}

func asJSON(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}
