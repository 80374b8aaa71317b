package hook

import (
	"encoding/json"
	"errors"
	"strings"
)

// notification is one event of distribution's, and of those that took them over.
// Source: distribution, "Notifications"; Microsoft, "Azure Container Registry webhook
// reference". target.url and request.host are what the client that pushed called the
// registry; nothing is asked there.
type notification struct {
	ID     string `json:"id"`
	Action string `json:"action"`
	Target struct {
		MediaType  string `json:"mediaType"`
		Digest     string `json:"digest"`
		Repository string `json:"repository"`
		Tag        string `json:"tag"`
	} `json:"target"`
}

// distribution reads distribution's envelope, which GitLab sends too, and Azure's,
// which is one event without it.
func distribution(m *message) ([]event, error) {
	var p struct {
		Events *[]json.RawMessage `json:"events"`
	}
	if err := decode(m.body, &p); err != nil {
		return nil, err
	}
	if p.Events == nil {
		e, err := m.notification(m.body)
		return []event{e}, err
	}
	if len(*p.Events) > maxEvents {
		return nil, errors.New("more than 100 events")
	}
	var out []event
	for _, raw := range *p.Events {
		e, err := m.notification(raw)
		if err != nil {
			e = event{err: err}
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, errors.New("no events")
	}
	return out, nil
}

// notification makes the event of one.
func (m *message) notification(raw []byte) (event, error) {
	var n notification
	if err := decode(raw, &n); err != nil {
		return event{}, err
	}
	switch n.Action {
	case "":
		return event{}, errors.New("no action")
	case "push":
		// Layers are told too.
		if !manifest(n.Target.MediaType) {
			return event{ignored: true}, nil
		}
		return m.push(n.ID, n.Target.Repository, n.Target.Tag, n.Target.Digest, false), nil
	case "delete":
		if n.Target.Tag == "" && n.Target.Digest == "" { // a whole repository: its tags are found gone when they are asked for
			return event{ignored: true}, nil
		}
		return m.push(n.ID, n.Target.Repository, n.Target.Tag, n.Target.Digest, true), nil
	}
	return event{ignored: true}, nil // pull, mount, ping, quarantine, chart_push
}

// manifest reports whether a media type is that of a manifest or an index.
func manifest(mediaType string) bool {
	mediaType, _, _ = strings.Cut(mediaType, ";")
	switch strings.TrimSpace(strings.ToLower(mediaType)) {
	case "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json",
		"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json":
		return true
	}
	return false
}
