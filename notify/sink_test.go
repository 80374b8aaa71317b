package notify_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/notify"
	"pratique/store"
)

const link = "https://pratique.example.com/"

// sendOne sends an event to a sink, and returns what arrived.
func sendOne(t *testing.T, s notify.Sink, e store.Event) got {
	t.Helper()
	db, recv := database(t), receive(t, nil)
	s.URL, s.Transport = recv.URL, transport(t)
	cfg := quick(nil)
	cfg.Link = link
	n := newNotifier(t, db, map[string]notify.Sink{"a": s}, cfg)
	put(t, db, []string{"a"}, e)
	run(t, n)
	return recv.wait(t, 1)[0]
}

func withText(kind, text string) store.Event {
	e := event("id-1", "sha256:1", kind)
	e.Data, _ = json.Marshal(map[string]string{"text": text, "verdict": "v-1"})
	return e
}

// hostile is what an image's labels and file names may bring into a text: markup,
// mentions, links, characters of many bytes.
const hostile = "<!channel> @all @here @bob [x](http://evil) *b* _i_ `c` | # h\n# title &amp; \"q\" lab/a@sha256:1 ünï🚢"

// strict reads JSON into a document that must hold every key, and only once.
func strict(t *testing.T, body []byte, doc any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(doc); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if d.More() {
		t.Errorf("more than one document: %s", body)
	}
}

// TestSlack: https://api.slack.com/messaging/webhooks, "Escaping text".
func TestSlack(t *testing.T) {
	for _, text := range []string{hostile, strings.Repeat("<&>", 50_000), strings.Repeat("🚢", 50_000)} {
		g := sendOne(t, notify.Sink{Format: notify.FormatSlack}, withText(notify.TypeRefused, text))
		var doc struct {
			Text   string `json:"text"`
			Unfurl *bool  `json:"unfurl_links"`
		}
		strict(t, g.body, &doc)
		if n := utf8.RuneCountInString(doc.Text); n > 40_000 {
			t.Errorf("%d characters", n)
		}
		shown, end, ok := strings.Cut(doc.Text, "\n<https://pratique.example.com/api/v1/verdicts/v-1|Details>")
		if !ok || end != "" || doc.Unfurl == nil || *doc.Unfurl {
			t.Errorf("ends with %q", doc.Text[max(0, len(doc.Text)-200):])
		}
		if strings.ContainsAny(shown, "<>") || strings.ContainsAny(strings.NewReplacer("&amp;", "", "&lt;", "", "&gt;", "").Replace(shown), "&") {
			t.Errorf("markup is left in %.200q", shown)
		}
	}
}

// TestMattermost: https://developers.mattermost.com/integrate/reference/message-attachments/.
func TestMattermost(t *testing.T) {
	for _, text := range []string{hostile, strings.Repeat("*", 30_000), strings.Repeat("🚢", 30_000)} {
		g := sendOne(t, notify.Sink{Format: notify.FormatMattermost}, withText(notify.TypeRefused, text))
		var doc struct {
			Attachments []struct {
				Fallback, Color, Title, Text string
			} `json:"attachments"`
		}
		strict(t, g.body, &doc)
		a := doc.Attachments[0]
		if len(doc.Attachments) != 1 || a.Fallback == "" || a.Title != "Pratique: image refused" || len(a.Color) != 7 || a.Color[0] != '#' {
			t.Errorf("%+v", doc)
		}
		if n := utf8.RuneCountInString(a.Text); n > 16_383 {
			t.Errorf("%d characters", n)
		}
		shown, end, ok := strings.Cut(a.Text, "\n[Details](https://pratique.example.com/api/v1/verdicts/v-1)")
		if !ok || end != "" {
			t.Errorf("ends with %q", a.Text[max(0, len(a.Text)-200):])
		}
		for i, r := range shown { // every character that is markup is escaped
			if strings.ContainsRune("*_`[]()<>|#~", r) && (i == 0 || shown[i-1] != '\\') {
				t.Fatalf("markup is left in %.200q", shown)
			}
		}
		for _, mention := range []string{"@all", "@here", "@bob", "@channel"} {
			if strings.Contains(shown, mention) || strings.Contains(a.Fallback, mention) {
				t.Errorf("%s is mentioned in %.200q", mention, shown)
			}
		}
	}
}

// TestTeams: the envelope of "When a Teams webhook request is received", with an
// Adaptive Card 1.4; 28 KB.
func TestTeams(t *testing.T) {
	type card struct {
		Schema  string `json:"$schema"`
		Type    string `json:"type"`
		Version string `json:"version"`
		Teams   any    `json:"msteams"`
		Body    []struct {
			Type    string `json:"type"`
			Text    string `json:"text"`
			Weight  string `json:"weight"`
			Wrap    bool   `json:"wrap"`
			Inlines []struct {
				Type string `json:"type"`
				Text string `json:"text"`
			} `json:"inlines"`
		} `json:"body"`
		Actions []struct {
			Type  string `json:"type"`
			Title string `json:"title"`
			URL   string `json:"url"`
		} `json:"actions"`
	}
	for _, text := range []string{hostile, strings.Repeat("<", 30_000), strings.Repeat("🚢", 30_000)} {
		g := sendOne(t, notify.Sink{Format: notify.FormatTeams}, withText(notify.TypeRefused, text))
		var doc struct {
			Type        string `json:"type"`
			Attachments []struct {
				ContentType string  `json:"contentType"`
				ContentURL  *string `json:"contentUrl"`
				Content     card    `json:"content"`
			} `json:"attachments"`
		}
		strict(t, g.body, &doc)
		if len(g.body) > 28<<10 {
			t.Errorf("%d bytes", len(g.body))
		}
		if doc.Type != "message" || len(doc.Attachments) != 1 || doc.Attachments[0].ContentType != "application/vnd.microsoft.card.adaptive" {
			t.Fatalf("envelope %s", g.body)
		}
		c := doc.Attachments[0].Content
		if c.Type != "AdaptiveCard" || c.Version != "1.4" || len(c.Body) != 2 || c.Body[0].Type != "TextBlock" || c.Body[1].Type != "RichTextBlock" {
			t.Fatalf("card %+v", c)
		}
		shown := ""
		for _, run := range c.Body[1].Inlines {
			if run.Type != "TextRun" { // where Markdown is not read
				t.Errorf("inline %q", run.Type)
			}
			shown += run.Text
		}
		if !strings.HasPrefix(text, strings.TrimSuffix(shown, "…")) {
			t.Errorf("shown as %.200q", shown)
		}
		if len(c.Actions) != 1 || c.Actions[0].Type != "Action.OpenUrl" || c.Actions[0].URL != "https://pratique.example.com/api/v1/verdicts/v-1" {
			t.Errorf("actions %+v", c.Actions)
		}
	}
}

// notification is notifications.Event of distribution v3, as its JSON names the
// fields.
type notification struct {
	ID        string    `json:"id"`
	Timestamp time.Time `json:"timestamp"`
	Action    string    `json:"action"`
	Target    struct {
		MediaType      string            `json:"mediaType"`
		Digest         digest.Digest     `json:"digest"`
		Size           int64             `json:"size"`
		Annotations    map[string]string `json:"annotations"`
		Length         int64             `json:"length"`
		Repository     string            `json:"repository"`
		FromRepository string            `json:"fromRepository"`
		URL            string            `json:"url"`
		Tag            string            `json:"tag"`
	} `json:"target"`
	Request struct {
		ID        string `json:"id"`
		Addr      string `json:"addr"`
		Host      string `json:"host"`
		Method    string `json:"method"`
		UserAgent string `json:"useragent"`
	} `json:"request"`
	Actor struct {
		Name string `json:"name"`
	} `json:"actor"`
	Source struct {
		Addr       string `json:"addr"`
		InstanceID string `json:"instanceID"`
	} `json:"source"`
}

// TestDistribution: what arrives is what a registry would send.
func TestDistribution(t *testing.T) {
	image := notify.Image{
		Text: "x", Reference: "r", Repository: "docker.io/library/a", Tag: "1", Digest: digest.FromString("a"), Client: "10.0.0.1",
		MediaType: pratique.MediaTypeImageManifest, Size: 500, Verdict: "v-1",
	}
	moved := notify.TagMoved{Repository: "docker.io/library/a", Tag: "1", From: digest.FromString("a"), To: digest.FromString("b"), MediaType: pratique.MediaTypeImageIndex, Size: 700}
	gone := moved
	gone.To, gone.MediaType, gone.Size = "", "", 0
	for _, tc := range []struct {
		kind   string
		data   any
		action string
		digest digest.Digest
		method string
	}{
		{notify.TypeTagMoved, moved, "push", moved.To, "PUT"},
		{notify.TypeTagMoved, gone, "delete", "", "DELETE"},
		{notify.TypeAdmitted, image, "pull", image.Digest, "GET"},
		{notify.TypeRefused, image, "image.refused", image.Digest, ""},
		{notify.TypeChanged, notify.Changed{Image: image}, "verdict.changed", image.Digest, ""},
		{notify.TypeScanned, notify.Scanned{Image: image}, "image.scanned", image.Digest, ""},
	} {
		e := event("id-1", "1", tc.kind)
		raw, err := json.Marshal(tc.data)
		if err != nil {
			t.Fatal(err)
		}
		e.Data = raw
		g := sendOne(t, notify.Sink{Format: notify.FormatDistribution}, e)
		if got := g.header.Get("Content-Type"); got != "application/vnd.docker.distribution.events.v2+json" {
			t.Errorf("content type %q", got)
		}
		var doc struct {
			Events []notification `json:"events"`
		}
		strict(t, g.body, &doc)
		if len(doc.Events) != 1 {
			t.Fatalf("%s", g.body)
		}
		d := doc.Events[0]
		if d.ID != "id-1" || !d.Timestamp.Equal(start) || d.Action != tc.action || d.Target.Digest != tc.digest || d.Target.Repository != "docker.io/library/a" ||
			d.Target.Tag != "1" || d.Request.Method != tc.method || d.Source.InstanceID != "/test" || !strings.HasPrefix(d.Target.URL, link+"api/v1/") {
			t.Errorf("%s: %s", tc.kind, g.body)
		}
		if tc.action == "push" && (d.Target.MediaType != moved.MediaType || d.Target.Size != 700 || d.Target.Length != 700) {
			t.Errorf("target %+v", d.Target)
		}
	}
}

// TestLinks: where each event leads.
func TestLinks(t *testing.T) {
	type links map[string]string
	got := links{}
	for kind, cause := range map[string]string{
		notify.TypeRefused: "", notify.TypeChanged: "policy@1", notify.TypeDatabase: "database@sha256:2", notify.TypeExceptionMade: "", notify.TypeScanned: "",
	} {
		e := withText(kind, "x")
		e.Cause = cause
		if kind == notify.TypeExceptionMade {
			e.Subject = "ex-1"
		}
		g := sendOne(t, notify.Sink{Format: notify.FormatTemplate, Template: "{{.Link}}"}, e)
		got[strings.TrimPrefix(kind, "dev.pratique.")] = strings.TrimPrefix(string(g.body), link)
	}
	if d := cmp.Diff(links{
		"image.refused":     "api/v1/verdicts/v-1",
		"verdict.changed":   "api/v1/events?id=id-1",
		"image.scanned":     "api/v1/events?id=id-1",
		"database.updated":  "api/v1/events?cause=database%40sha256%3A2",
		"exception.created": "api/v1/exceptions/ex-1",
	}, got); d != "" {
		t.Error(d)
	}
}

// TestManyScans: a database that changed 500 images is two messages to people, one
// about verdicts and one about findings, each with a link to what it sums up.
func TestManyScans(t *testing.T) {
	for format, many := range map[notify.Format]int{notify.FormatSlack: 500, notify.FormatMattermost: 30, notify.FormatTeams: 30} {
		db, chat, c := database(t), receive(t, nil), &clock{t: start}
		cfg := quick(c)
		cfg.Link, cfg.Gather = link, 15*time.Second
		n := newNotifier(t, db, map[string]notify.Sink{"chat": {URL: chat.URL, Format: format, Transport: transport(t)}}, cfg)
		var es []store.Event
		for i := range many {
			e := event(fmt.Sprintf("scan-%03d", i), fmt.Sprint(i), notify.TypeScanned)
			e.Cause = "database@sha256:2"
			e.Data, _ = json.Marshal(notify.Scanned{
				Image: notify.Image{Text: fmt.Sprint("image ", i)}, Cause: "database",
				Changes: &notify.Changes{Total: 3, Kinds: map[pratique.ChangeKind]int{pratique.ChangeAppeared: 2, pratique.ChangeSeverity: 1}},
			})
			v := changed(fmt.Sprintf("verdict-%03d", i), fmt.Sprint(i, "v"), pratique.OutcomeDeny)
			v.Cause = e.Cause
			es = append(es, e, v)
		}
		put(t, db, []string{"chat"}, es...)
		run(t, n)
		c.add(time.Minute) // while Run looks, or before
		n.Wake()
		settled(t, db, fmt.Sprintf("scan-%03d", many-1), "chat", store.DeliveryDone)
		settled(t, db, fmt.Sprintf("verdict-%03d", many-1), "chat", store.DeliveryDone)
		got := chat.all()
		if len(got) != 2 {
			t.Fatalf("%s: %d messages, want two", format, len(got))
		}
		all := string(got[0].body) + string(got[1].body)
		for _, want := range []string{
			fmt.Sprintf("%d images have other findings: %d appeared, %d have another severity", many, 2*many, many), fmt.Sprintf("%d images are refused now", many),
			`/api/v1/events?cause=database%40sha256%3A2\u0026amp;type=image.scanned`, `/api/v1/events?cause=database%40sha256%3A2\u0026amp;type=verdict.changed`,
		} {
			if format != notify.FormatSlack {
				want = strings.ReplaceAll(want, "amp;", "")
			}
			if !strings.Contains(all, want) {
				t.Errorf("%s: %q is not in %.3000s", format, want, all)
			}
		}
	}
}

// TestEnvelopesAreAboutRepositories: what is about none is not for who reads the
// notifications of registries.
func TestEnvelopesAreAboutRepositories(t *testing.T) {
	w := newWorld(t)
	n := newNotifier(t, w.db, map[string]notify.Sink{
		"a": {URL: "http://x", Format: notify.FormatDistribution, Transport: http.DefaultTransport}, "b": {URL: "http://x", Transport: http.DefaultTransport},
	}, quick(&w.clock))
	w.watch(n, notify.WatcherConfig{})
	w.look()
	w.clock.add(time.Minute)
	w.engine.Database = digest.FromString("db2")
	a := w.decide("a", pratique.OutcomeAllow, nil)
	es := w.look(a)
	w.want(es, "database.updated image.scanned")
	for i, want := range []int{1, 2} {
		rs, err := w.db.Events(t.Context(), store.EventQuery{ID: es[i].ID, Limit: 1})
		if err != nil || len(rs[0].Deliveries) != want {
			t.Errorf("%s goes to %+v, %v; want %d", es[i].Type, rs[0].Deliveries, err, want)
		}
	}
}
