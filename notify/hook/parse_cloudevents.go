package hook

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	ce "github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/package-url/packageurl-go"
)

// structured reports whether a body is a CloudEvent itself, whatever its
// Content-Type says: several senders call it plain JSON.
func structured(body []byte) bool {
	var p struct {
		Version string `json:"specversion"`
	}
	return json.Unmarshal(body, &p) == nil && p.Version != ""
}

// cloudEvents reads CloudEvents 1.0: structured, binary, or a batch. Of the events it
// knows Harbor's, Azure's, CDEvents about artifacts, and any other whose data is
// {"repository": …, "tag": …, "digest": …, "deleted": …}.
func cloudEvents(m *message) ([]event, error) {
	kind, _, _ := mime.ParseMediaType(m.header.Get("Content-Type"))
	var events []ce.Event
	switch {
	case kind == ce.ApplicationCloudEventsBatchJSON:
		if err := json.Unmarshal(m.body, &events); err != nil {
			return nil, errors.New("no batch of CloudEvents")
		}
	case m.header.Get("Ce-Specversion") != "":
		e, err := cehttp.NewEventFromHTTPRequest(&http.Request{Header: m.header, Body: io.NopCloser(bytes.NewReader(m.body))})
		if err != nil {
			return nil, errors.New("no CloudEvent in binary form")
		}
		events = []ce.Event{*e}
	default:
		events = make([]ce.Event, 1)
		if err := json.Unmarshal(m.body, &events[0]); err != nil {
			return nil, errors.New("no CloudEvent")
		}
	}
	if len(events) > maxEvents {
		return nil, errors.New("more than 100 events")
	}
	var out []event
	for _, e := range events {
		if err := e.Validate(); err != nil {
			return nil, errors.New("no valid CloudEvent")
		}
		es, err := m.cloudEvent(e)
		if err != nil {
			es = []event{{err: err}}
		}
		out = append(out, es...)
	}
	return out, nil
}

// cloudEvent makes the events of one.
func (m *message) cloudEvent(e ce.Event) ([]event, error) {
	id, kind := e.Source()+" "+e.ID(), e.Type()
	cd := strings.HasPrefix(kind, "dev.cdevents.")
	switch {
	case kind == "harbor.artifact.pushed", kind == "harbor.artifact.deleted":
		var p harborEvent
		if err := decode(e.Data(), &p); err != nil {
			return nil, err
		}
		return m.harbor(id, p, kind == "harbor.artifact.deleted")
	case strings.HasPrefix(kind, "harbor."), m.receiver.Type == Harbor:
		return ignored(), nil
	case strings.HasPrefix(kind, "Microsoft.ContainerRegistry."):
		one, err := m.notification(e.Data())
		return []event{one}, err
	case strings.HasPrefix(kind, "dev.cdevents.artifact.published."), strings.HasPrefix(kind, "dev.cdevents.artifact.deleted."):
		return m.cdEvent(id, e)
	case cd:
		return ignored(), nil
	}
	p, ok := readPlain(e.Data())
	if !ok {
		return ignored(), nil // whatever else the sender tells
	}
	return []event{m.push(id, p.Repository, p.Tag, p.Digest, p.Deleted)}, nil
}

// plain is the data of events of any type, as docs/webhooks.md describes it.
type plain struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	Digest     string `json:"digest"`
	Deleted    bool   `json:"deleted"`
}

// readPlain reports whether data is of that form.
func readPlain(data []byte) (plain, bool) {
	var p plain
	err := decode(data, &p)
	return p, err == nil && p.Repository != ""
}

// cdEvent makes that of a CDEvent about an artifact, whose subject is a package URL:
// pkg:oci/NAME@DIGEST?repository_url=HOST/PATH/NAME&tag=TAG. Source: CDEvents,
// "Continuous Integration Events"; package-url, "oci".
func (m *message) cdEvent(id string, e ce.Event) ([]event, error) {
	var p struct {
		Subject struct {
			ID string `json:"id"`
		} `json:"subject"`
	}
	if err := decode(e.Data(), &p); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(p.Subject.ID, "pkg:oci/") {
		return ignored(), nil // an artifact of another kind
	}
	purl, err := packageurl.FromString(p.Subject.ID)
	if err != nil {
		return nil, errors.New("subject.id is no package URL")
	}
	qualifiers := purl.Qualifiers.Map()
	repo := purl.Name
	if at := qualifiers["repository_url"]; at != "" {
		_, rest, found := strings.Cut(at, "://")
		if !found {
			rest = at
		}
		host, path, _ := strings.Cut(strings.TrimSuffix(rest, "/"), "/")
		if !m.receiver.ours(host) {
			return ignored(), nil
		}
		switch { // with the name or without: both are written
		case path == "":
		case path == repo || strings.HasSuffix(path, "/"+repo):
			repo = path
		default:
			repo = path + "/" + repo
		}
	}
	return []event{m.push(id, repo, qualifiers["tag"], purl.Version, strings.HasPrefix(e.Type(), "dev.cdevents.artifact.deleted."))}, nil
}
