package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"pratique"
	"pratique/internal/strictyaml"
)

// matchDocument is a match or except as written.
type matchDocument struct {
	Pos          strictyaml.Pos
	Upstream     []string `yaml:"upstream"`
	Repository   []string `yaml:"repository"`
	Tag          []string `yaml:"tag"`
	Platform     []string `yaml:"platform"`
	ArtifactType []string `yaml:"artifactType"`
	Client       []string `yaml:"client"`
}

// selector says which references, images and clients a rule is about: every list
// that is there must hold something that fits.
type selector struct {
	upstream, repository, tag, artifactType globs
	platform                                []pratique.Platform
	client                                  []netip.Prefix
}

// Facts that a selector may miss, as a message names them.
const (
	missingTag      = "the tag, because the pull is by digest"
	missingPlatform = "the image's platform"
	missingArtifact = "the artifact's type"
	missingHonest   = "the artifact's type, because it can be run as an image"
	missingClient   = "the client's address"
)

// elsewhere reports whether the rule is surely about other repositories, whatever
// the image: then selects says no before anything else is read.
func (r *rule) elsewhere(ref *pratique.Ref) bool {
	if r.match != nil && !r.match.here(ref) {
		return true
	}
	x := r.except
	return x != nil && x.tag == nil && x.artifactType == nil && x.platform == nil && x.client == nil && x.here(ref)
}

// here reports whether upstream and repository fit.
func (s *selector) here(ref *pratique.Ref) bool {
	return (s.upstream == nil || s.upstream.match(ref.Registry)) && (s.repository == nil || s.repository.match(ref.Repo))
}

// selects tells whether all of this is meant; if not, which key does not fit, and
// which fact is missing when that is not known.
func (s *selector) selects(e *evaluation) (truth, string) {
	ref := &e.facts.Ref
	if s.upstream != nil && !s.upstream.match(ref.Registry) {
		return no, "upstream"
	}
	if s.repository != nil && !s.repository.match(ref.Repo) {
		return no, "repository"
	}
	sure, missing := s.selectsTag(e)
	switch sure {
	case no:
		return no, missing
	case yes:
		missing = ""
	case unknown:
	}
	for i := range 3 {
		var t truth
		var m string
		switch i {
		case 0:
			t, m = s.selectsArtifact(e)
		case 1:
			t, m = s.selectsPlatform(e)
		default:
			t, m = s.selectsClient(e)
		}
		switch t {
		case no:
			return no, m
		case unknown:
			sure, missing = unknown, m
		case yes:
		}
	}
	return sure, missing
}

func (s *selector) selectsTag(e *evaluation) (truth, string) {
	switch tag := e.facts.Ref.Tag; {
	case s.tag == nil:
		return yes, ""
	case tag == "" && e.elsewhere(s.tag):
		return no, "tag"
	case tag == "":
		return unknown, missingTag
	default:
		return truthOf(s.tag.match(tag)), "tag"
	}
}

func (s *selector) selectsArtifact(e *evaluation) (truth, string) {
	if s.artifactType == nil {
		return yes, ""
	}
	kind := artifactType(&e.facts.Image)
	if kind == "" {
		return unknown, missingArtifact
	}
	fits := s.artifactType.match(kind)
	// Clients that run an image do not look at what it calls itself: one that can be
	// run is no chart for saying so.
	if config := e.facts.Image.Config.MediaType; kind != config && e.facts.Image.Runnable() && fits != s.artifactType.match(config) {
		return unknown, missingHonest
	}
	return truthOf(fits), "artifactType"
}

// artifactType of a manifest that names none is the media type of its config
// (OCI image-spec 1.1, "Guidelines for artifact usage").
func artifactType(i *pratique.Image) string {
	if i.ArtifactType != "" {
		return i.ArtifactType
	}
	return i.Config.MediaType
}

func (s *selector) selectsPlatform(e *evaluation) (truth, string) {
	if s.platform == nil {
		return yes, ""
	}
	p, known := e.platform()
	if !known {
		return unknown, missingPlatform
	}
	for _, w := range s.platform {
		if p.Matches(w) {
			return yes, ""
		}
	}
	return no, "platform"
}

// platform is what the image's config claims to run on.
func (e *evaluation) platform() (pratique.Platform, bool) {
	if e.facts.Report.Image != e.facts.Image.Digest {
		return pratique.Platform{}, false
	}
	p := e.facts.Report.Config.Platform
	return p, p.OS != "" && p.Architecture != ""
}

func (s *selector) selectsClient(e *evaluation) (truth, string) {
	if s.client == nil {
		return yes, ""
	}
	addr := e.facts.Client.Unmap().WithZone("")
	if !addr.IsValid() {
		return unknown, missingClient
	}
	for _, p := range s.client {
		if p.Contains(addr) {
			return yes, ""
		}
	}
	return no, "client"
}

// selector compiles a match or except.
func (c *compiler) selector(d *matchDocument, path string) *selector {
	if d == nil {
		return nil
	}
	var s selector
	lists := []struct {
		key  string
		in   []string
		take func(string) error
	}{
		{"upstream", d.Upstream, takeGlob(&s.upstream, keyChars)},
		{"repository", d.Repository, takeGlob(&s.repository, repoChars)},
		{"tag", d.Tag, takeGlob(&s.tag, tagChars)},
		{"platform", d.Platform, s.takePlatform},
		{"artifactType", d.ArtifactType, takeGlob(&s.artifactType, typeChars)},
		{"client", d.Client, s.takeClient},
	}
	at, empty := place{path, d.Pos}, true
	for _, l := range lists {
		if c.has(at, l.key) {
			empty = false
			c.list(at, l.key, l.in, l.take)
		}
	}
	if empty {
		c.fail(d.Pos, "%s names nothing: want upstream, repository, tag, platform, artifactType or client", path[strings.LastIndexByte(path, '.')+1:])
	}
	return &s
}

// list takes each entry of a list that is written, and refuses an empty one.
func (c *compiler) list(at place, key string, in []string, take func(string) error) {
	if !c.has(at, key) {
		return
	}
	if len(in) == 0 {
		c.failAt(at, key, "%s: an empty list fits nothing", key)
	}
	for i, text := range in {
		if err := take(text); err != nil {
			c.failAt(at, fmt.Sprintf("%s[%d]", key, i), "%s: %s", key, err)
		}
	}
}

// takeGlob appends patterns over chars to out.
func takeGlob(out *globs, chars string) func(string) error {
	return func(text string) error {
		g, err := glob(text)
		if err == nil {
			err = reachable(text, chars)
		}
		if err == nil {
			*out = append(*out, g)
		}
		return err
	}
}

func (s *selector) takePlatform(text string) error {
	p, err := pratique.ParsePlatform(text)
	if err != nil {
		return fmt.Errorf("%q: want os/architecture[/variant], e.g. linux/amd64", text)
	}
	s.platform = append(s.platform, p)
	return nil
}

func (s *selector) takeClient(text string) error {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		s.client = append(s.client, netip.PrefixFrom(addr, addr.BitLen()))
		return nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return fmt.Errorf("%q: want a network or an address, e.g. 10.0.0.0/8", text)
	case p.Addr().Is4In6():
		return fmt.Errorf("%q fits nothing: write the IPv4 network itself", text)
	case p != p.Masked():
		return fmt.Errorf("%q has bits set beyond its mask: did you mean `%s`?", text, p.Masked())
	}
	s.client = append(s.client, p)
	return nil
}
