package notify

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique/store"
)

// mediaTypeEnvelope is that of the envelopes in which registries notify. Source:
// distribution, docs/content/about/notifications.md.
const mediaTypeEnvelope = "application/vnd.docker.distribution.events.v2+json"

// distributed is one event of an envelope.
type distributed struct {
	ID        string    `json:"id"`
	Timestamp time.Time `json:"timestamp"`
	Action    string    `json:"action"`
	Target    struct {
		MediaType  string        `json:"mediaType,omitempty"`
		Size       int64         `json:"size,omitempty"`
		Digest     digest.Digest `json:"digest,omitempty"`
		Length     int64         `json:"length,omitempty"`
		Repository string        `json:"repository"`
		URL        string        `json:"url,omitempty"`
		Tag        string        `json:"tag,omitempty"`
	} `json:"target"`
	Request struct {
		ID        string `json:"id"`
		Addr      string `json:"addr,omitempty"`
		Method    string `json:"method"`
		UserAgent string `json:"useragent"`
	} `json:"request"`
	Actor struct {
		Name string `json:"name,omitempty"`
	} `json:"actor"`
	Source struct {
		Addr       string `json:"addr,omitempty"`
		InstanceID string `json:"instanceID,omitempty"`
	} `json:"source"`
}

// action is what a consumer of a registry's notifications would call it. Words of
// our own are for who knows them; others ignore them, as they must those of
// registries that they do not know.
func action(kind string, to digest.Digest) string {
	switch kind {
	case TypeAdmitted:
		return "pull"
	case TypeTagMoved:
		if to == "" {
			return "delete"
		}
		return "push"
	}
	return strings.TrimPrefix(kind, typePrefix)
}

// distribution writes an event as a registry would. Who reads it wants to know which
// manifest of which repository; the rest of data is left out.
func (s *sink) distribution(e store.Event) (message, error) {
	var data struct {
		Repository, Tag, MediaType, Client string
		Digest, To                         digest.Digest
		Size                               int64
	}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		return message{}, err
	}
	d := distributed{ID: e.ID, Timestamp: e.At, Action: action(e.Type, data.To)}
	d.Target.Repository, d.Target.Tag, d.Target.Digest = data.Repository, data.Tag, data.Digest
	if data.To != "" {
		d.Target.Digest = data.To
	}
	d.Target.MediaType, d.Target.Size, d.Target.Length = data.MediaType, data.Size, data.Size
	d.Target.URL = s.find(e)
	d.Request.ID, d.Request.Addr, d.Request.UserAgent = e.ID, data.Client, "pratique"
	switch d.Action {
	case "pull":
		d.Request.Method = http.MethodGet
	case "push":
		d.Request.Method = http.MethodPut
	case "delete":
		d.Request.Method = http.MethodDelete
	}
	d.Source.InstanceID = s.source
	body, err := json.Marshal(map[string][]distributed{"events": {d}})
	return message{header: http.Header{"Content-Type": {mediaTypeEnvelope}}, body: body}, err
}
