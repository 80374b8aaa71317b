package hook

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pratique"
)

// FuzzHook: whatever an authentic caller sends, of whatever type, is answered with
// success or as its mistake, and what is made of it are names of the hook's own
// upstream.
func FuzzHook(f *testing.F) {
	for _, s := range samples(f) {
		f.Add(string(s.kind), s.header.Get("Content-Type"), s.header.Get("X-GitHub-Event"), s.body)
	}
	f.Add("cloudevents", "application/cloudevents-batch+json", "", []byte(`[{"specversion":"1.0","id":"1","source":"/","type":"x","data_base64":"e30="}]`))
	f.Add("cloudevents", "application/json", "", []byte(`{"specversion":"0.3","id":"1","source":"/","type":"x","data":"{}"}`))
	f.Add("artifact-registry", "", "", []byte(`{"message":{"data":"W1tbW1s="}}`))
	f.Fuzz(func(t *testing.T, kind, contentType, github string, body []byte) {
		if _, err := parserOf(Type(kind)); err != nil {
			t.Skip()
		}
		k := &taken{}
		r := Receiver{Type: Type(kind), Upstream: "lab", Hosts: hosts(Type(kind)), Auth: Header, Secret: []byte(secret)}
		h, err := newHook(t.Context(), "lab", r, k, Config{Now: fixed, Log: quiet()}, newMetrics(nil))
		if err != nil {
			t.Fatal(err)
		}
		req := httptest.NewRequest(http.MethodPost, "/hooks/lab", strings.NewReader(string(body)))
		req.Header.Set("Authorization", secret)
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("X-GitHub-Event", github)
		w := httptest.NewRecorder()
		var said told
		p := h.take(w, req, "", &said) // below the handler's recover: a panic fails
		if p != nil && p.status != http.StatusBadRequest && p.status != http.StatusRequestEntityTooLarge {
			t.Errorf("answered %d", p.status)
		}
		if p != nil && len(k.refs) > 0 {
			t.Errorf("refused, and taken: %v", k.refs)
		}
		for _, text := range k.refs {
			text = strings.TrimPrefix(text, "-")
			ref, err := pratique.ParseRef(text)
			if err != nil || ref.Registry != "lab" || !pratique.ValidRepo(ref.Repo) {
				t.Errorf("made %q: %v", text, err)
			}
		}
		if len(k.refs) > maxEvents {
			t.Errorf("%d pushes", len(k.refs))
		}
	})
}
