package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"pratique/nodes"
)

// registryClient speaks to Pratique as the node's runtime is told to.
func registryClient(cfg nodes.Config) (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(cfg.CA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(cfg.CA) {
			return nil, errors.New("the CA file holds no certificate in PEM")
		}
	}
	if len(cfg.Cert) > 0 {
		pair, err := tls.X509KeyPair(cfg.Cert, cfg.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate and key: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return &http.Client{
		Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // Pratique does not redirect; who does is not it
		},
	}, nil
}

// canaryURL is where the node's runtime asks Pratique for ref: podman and CRI-O
// by the upstream's key in the path, the others by the registry's name in ?ns=.
func canaryURL(server *url.URL, cfg nodes.Config, ref name.Reference) *url.URL {
	registry, key := registryOf(ref), ""
	if cfg.Runtime == nodes.Podman || cfg.Runtime == nodes.CRIO {
		key = registry
		for _, u := range cfg.Upstreams {
			if u.Name == registry && u.Key != "" {
				key = u.Key
			}
		}
	}
	u := server.JoinPath("v2", key, ref.Context().RepositoryStr(), "manifests", ref.Identifier())
	if key == "" {
		u.RawQuery = url.Values{"ns": {registry}}.Encode()
	}
	return u
}

// askPratique asks for the canary's manifest, as the node's runtime would.
func askPratique(ctx context.Context, client *http.Client, cfg nodes.Config, ref name.Reference) asked {
	server, err := nodes.ParseServer(cfg.Server)
	if err != nil {
		return asked{nodes.Silent, err.Error()}
	}
	u := canaryURL(server, cfg, ref)
	get, message, err := askOnce(ctx, client, cfg, http.MethodGet, u)
	if err != nil {
		return asked{nodes.Silent, err.Error()}
	}
	head, _, err := askOnce(ctx, client, cfg, http.MethodHead, u)
	if err != nil {
		return asked{nodes.Silent, err.Error()}
	}
	switch {
	case get == http.StatusForbidden && head == http.StatusForbidden:
		return asked{nodes.Refused, message}
	case get == http.StatusForbidden && head == http.StatusOK:
		return asked{nodes.RefusedBare, message}
	case get == http.StatusOK:
		return asked{nodes.Has, "serves the canary"}
	case get == http.StatusUnauthorized:
		return asked{nodes.Lacks, "asks for a login: name one with --username and --password-file, or --cert and --key"}
	}
	return asked{nodes.Lacks, fmt.Sprintf("answers %d to GET and %d to HEAD: %s", get, head, message)}
}

func askOnce(ctx context.Context, client *http.Client, cfg nodes.Config, method string, u *url.URL) (status int, message string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Accept", "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json")
	if cfg.Username != "" {
		req.SetBasicAuth(cfg.Username, cfg.Password)
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return 0, "", err
	}
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(raw, &body) != nil || len(body.Errors) == 0 {
		return res.StatusCode, res.Status, nil
	}
	return res.StatusCode, body.Errors[0].Code + ": " + body.Errors[0].Message, nil
}

// registryOf is the registry as images name it.
func registryOf(ref name.Reference) string {
	if r := ref.Context().RegistryStr(); r != name.DefaultRegistry {
		return r
	}
	return "docker.io"
}

// askUpstream asks the canary's own registry for it, as a node would that falls
// back: with the logins of this machine.
func askUpstream(ctx context.Context, direct string, ref name.Reference) asked {
	if direct != "" {
		server, err := nodes.ParseServer(direct)
		if err != nil {
			return asked{nodes.Silent, "--direct: " + err.Error()}
		}
		var options []name.Option
		if server.Scheme == "http" {
			options = append(options, name.Insecure)
		}
		separator := ":"
		if _, ok := ref.(name.Digest); ok {
			separator = "@"
		}
		if ref, err = name.ParseReference(server.Host+"/"+ref.Context().RepositoryStr()+separator+ref.Identifier(), options...); err != nil {
			return asked{nodes.Silent, "--direct: " + err.Error()}
		}
	}
	found, err := remote.Head(ref, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err == nil {
		return asked{nodes.Has, "has it: " + found.Digest.String()}
	}
	answer, ok := errors.AsType[*transport.Error](err)
	if ok && (answer.StatusCode == http.StatusNotFound || answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden) {
		return asked{nodes.Lacks, fmt.Sprintf("answers %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))}
	}
	return asked{nodes.Silent, strings.TrimSpace(err.Error())}
}
