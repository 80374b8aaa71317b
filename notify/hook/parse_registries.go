package hook

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
)

var errNoRepository = errors.New("no repository")

// dockerHub reads Docker Hub's: no digest, and callback_url is never called.
// Source: docs.docker.com, "Webhooks".
func dockerHub(m *message) ([]event, error) {
	var p struct {
		PushData *struct {
			Tag      string          `json:"tag"`
			PushedAt json.RawMessage `json:"pushed_at"` // a number, whole or not
		} `json:"push_data"`
		Repository *struct {
			Name string `json:"repo_name"`
		} `json:"repository"`
	}
	if err := decode(m.body, &p); err != nil {
		return nil, err
	}
	if p.Repository == nil || p.PushData == nil {
		return nil, errors.New("no push_data or no repository")
	}
	id := ""
	if at := string(p.PushData.PushedAt); at != "" && at != "null" {
		id = p.Repository.Name + ":" + p.PushData.Tag + " " + at
	}
	return []event{m.push(id, p.Repository.Name, p.PushData.Tag, "", false)}, nil
}

// quay reads Quay's repo_push; its other notifications update no tags. Source: Red
// Hat Quay, "Repository notifications".
func quay(m *message) ([]event, error) {
	var p struct {
		Repository string          `json:"repository"`
		Tags       json.RawMessage `json:"updated_tags"`
	}
	if err := decode(m.body, &p); err != nil {
		return nil, err
	}
	if len(p.Tags) == 0 || string(p.Tags) == "null" {
		return ignored(), nil
	}
	var tags []string
	if p.Tags[0] == '{' { // tag: image, of old
		var byTag map[string]json.RawMessage
		if err := decode(p.Tags, &byTag); err != nil {
			return nil, err
		}
		tags = slices.Sorted(maps.Keys(byTag))
	} else if err := decode(p.Tags, &tags); err != nil {
		return nil, errors.New("updated_tags is no list of names")
	}
	if p.Repository == "" {
		return nil, errNoRepository
	}
	var out []event
	for _, tag := range tags {
		out = append(out, m.push("", p.Repository, tag, "", false))
	}
	return out, nil
}

// harborEvent is what Harbor tells in both formats.
type harborEvent struct {
	Resources []struct {
		Digest string `json:"digest"`
		Tag    string `json:"tag"` // the digest again where there is no tag
	} `json:"resources"`
	Repository struct {
		Full string `json:"repo_full_name"`
	} `json:"repository"`
}

// harbor reads Harbor's, in the default format and as CloudEvents. Source: Harbor,
// "Configure Webhook Notifications". The host of resource_url is the name under which
// Harbor goes outside, which need not be the upstream's.
func harbor(m *message) ([]event, error) {
	if structured(m.body) || m.header.Get("Ce-Specversion") != "" {
		return cloudEvents(m)
	}
	var p struct {
		Type string      `json:"type"`
		Data harborEvent `json:"event_data"`
	}
	if err := decode(m.body, &p); err != nil {
		return nil, err
	}
	switch p.Type {
	case "":
		return nil, errors.New("no type")
	case "PUSH_ARTIFACT":
		return m.harbor("", p.Data, false)
	case "DELETE_ARTIFACT":
		return m.harbor("", p.Data, true)
	}
	return ignored(), nil
}

// harbor makes the events of one of Harbor's.
func (m *message) harbor(id string, p harborEvent, deleted bool) ([]event, error) {
	if p.Repository.Full == "" {
		return nil, errNoRepository
	}
	var out []event
	for _, r := range p.Resources {
		one := id
		if one != "" {
			one += " " + r.Tag + " " + r.Digest
		}
		out = append(out, m.push(one, p.Repository.Full, r.Tag, r.Digest, deleted))
	}
	if len(out) == 0 {
		return nil, errors.New("no resources")
	}
	return out, nil
}

// githubPackage is what GitHub tells of a package.
type githubPackage struct {
	Name      string `json:"name"`
	Type      string `json:"package_type"`
	Ecosystem string `json:"ecosystem"`
	Owner     struct {
		Login string `json:"login"`
	} `json:"owner"`
	Version struct {
		URL       string `json:"package_url"` // ghcr.io/OWNER/NAME:TAG
		Container struct {
			Tag struct {
				Name   string `json:"name"`
				Digest string `json:"digest"`
			} `json:"tag"`
			Manifest struct {
				Digest string `json:"digest"`
			} `json:"manifest"`
		} `json:"container_metadata"`
	} `json:"package_version"`
}

// ghcr reads GitHub's events package and registry_package. Source: GitHub, "Webhook
// events and payloads", and the samples of octokit/webhooks.
func ghcr(m *message) ([]event, error) {
	kind := m.header.Get("X-GitHub-Event")
	if kind != "" && kind != "package" && kind != "registry_package" {
		return ignored(), nil // ping, and whatever else the webhook was ticked for
	}
	var p struct {
		Action   string         `json:"action"`
		Package  *githubPackage `json:"package"`
		Registry *githubPackage `json:"registry_package"`
	}
	if err := decode(m.body, &p); err != nil {
		return nil, err
	}
	pkg := p.Package
	if pkg == nil {
		pkg = p.Registry
	}
	if pkg == nil {
		return nil, errors.New("no package")
	}
	container := false
	for _, word := range []string{pkg.Type, pkg.Ecosystem} {
		word = strings.ToLower(word)
		container = container || word == "container" || word == "docker"
	}
	if !container || p.Action != "published" && p.Action != "updated" {
		return ignored(), nil
	}
	// The address has the name as it is pulled; what else has it is of older kinds of
	// packages. Logins may have capitals, names of images may not.
	_, repo, _ := strings.Cut(pkg.Version.URL, "/")
	repo, _, _ = strings.Cut(repo, "@")
	repo, tag, _ := strings.Cut(repo, ":")
	if repo == "" {
		repo = pkg.Owner.Login + "/" + pkg.Name
	}
	if name := pkg.Version.Container.Tag.Name; name != "" {
		tag = name
	}
	digest := pkg.Version.Container.Manifest.Digest
	if digest == "" {
		digest = pkg.Version.Container.Tag.Digest
	}
	return []event{m.push(m.header.Get("X-GitHub-Delivery"), strings.ToLower(repo), tag, digest, false)}, nil
}

// jfrog reads Artifactory's predefined webhooks of the domain docker. Source: JFrog,
// "Event Types". An upstream that is one repository (its name is the first label of
// the host, or ends it) has images under their own names, any other under
// REPOSITORY/IMAGE.
func jfrog(m *message) ([]event, error) {
	var p struct {
		Domain string `json:"domain"`
		Type   string `json:"event_type"`
		Data   struct {
			Repository string `json:"repo_key"`
			Image      string `json:"image_name"`
			Tag        string `json:"tag"`
			SHA256     string `json:"sha256"`
		} `json:"data"`
	}
	if err := decode(m.body, &p); err != nil {
		return nil, err
	}
	if p.Type == "" {
		return nil, errors.New("no event_type")
	}
	deleted := p.Type == "deleted"
	if p.Domain != "" && p.Domain != "docker" || !deleted && p.Type != "pushed" && p.Type != "promoted" {
		return ignored(), nil
	}
	if p.Data.Repository == "" || p.Data.Image == "" {
		return nil, errNoRepository
	}
	repo := p.Data.Repository + "/" + p.Data.Image
	for _, host := range m.receiver.Hosts {
		if label, _, _ := strings.Cut(host, "."); label == p.Data.Repository || strings.HasSuffix(label, "-"+p.Data.Repository) {
			repo = p.Data.Image
		}
	}
	digest := ""
	if p.Data.SHA256 != "" {
		digest = "sha256:" + p.Data.SHA256
	}
	return []event{m.push("", repo, p.Data.Tag, digest, deleted)}, nil
}
