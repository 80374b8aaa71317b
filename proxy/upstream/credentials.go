package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	ecr "github.com/awslabs/amazon-ecr-credential-helper/ecr-login"
	acr "github.com/chrismellard/docker-credential-acr-env/pkg/credhelper"
	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/google"
)

// Credentials say who we are to an upstream: a user and a password file, or a
// docker configuration, or a cloud's keychain. Files are read again when they
// are needed, so that they can be rotated.
type Credentials struct {
	// Username and PasswordFile go together; the file holds the password or
	// access token, white space around it is ignored.
	Username     string
	PasswordFile string
	// DockerConfig is the path of a docker config.json (auths, credHelpers,
	// credsStore).
	DockerConfig string
	// Keychain asks the cloud that Pratique runs in: ecr, gcr (also Artifact
	// Registry) or acr. These talk to the cloud's own services.
	Keychain string
}

// credentialsAge is how long credentials are used before they are read again;
// a refusal by the upstream makes them be read at once.
const credentialsAge = 5 * time.Minute

// credentials are what is known now; resolve finds them out.
type credentials struct {
	resolve func(context.Context) (authn.AuthConfig, error)
	now     func() time.Time

	mu    sync.Mutex
	known authn.AuthConfig
	until time.Time
}

func newCredentials(cfg Credentials, base *url.URL, now func() time.Time) (*credentials, error) {
	c := &credentials{now: now}
	given := 0
	if cfg.Username != "" || cfg.PasswordFile != "" {
		given++
		if cfg.Username == "" || cfg.PasswordFile == "" {
			return nil, errors.New("credentials: username and passwordFile go together")
		}
		c.resolve = fromPasswordFile(cfg.Username, cfg.PasswordFile)
	}
	if cfg.DockerConfig != "" {
		given++
		c.resolve = fromDockerConfig(cfg.DockerConfig, base.Host)
	}
	if cfg.Keychain != "" {
		given++
		keychain, err := newKeychain(cfg.Keychain)
		if err != nil {
			return nil, err
		}
		c.resolve = fromKeychain(keychain, base.Host)
	}
	if given > 1 {
		return nil, errors.New("credentials: give one of username and passwordFile, dockerConfig, keychain")
	}
	return c, nil
}

// get returns the credentials; the zero value is anonymous.
func (c *credentials) get(ctx context.Context) (authn.AuthConfig, error) {
	if c.resolve == nil {
		return authn.AuthConfig{}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now().Before(c.until) {
		return c.known, nil
	}
	known, err := c.resolve(ctx)
	if err != nil {
		return authn.AuthConfig{}, err
	}
	c.known, c.until = known, c.now().Add(credentialsAge)
	return known, nil
}

// forget makes the next get resolve again.
func (c *credentials) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = time.Time{}
}

func fromPasswordFile(username, path string) func(context.Context) (authn.AuthConfig, error) {
	return func(context.Context) (authn.AuthConfig, error) {
		raw, err := os.ReadFile(path)
		if err != nil {
			return authn.AuthConfig{}, err
		}
		password := strings.TrimSpace(string(raw))
		if password == "" {
			return authn.AuthConfig{}, fmt.Errorf("%s: empty", path)
		}
		return authn.AuthConfig{Username: username, Password: password}, nil
	}
}

// dockerHubKeys are the names under which docker login stores Docker Hub.
var dockerHubKeys = []string{authn.DefaultAuthKey, "index.docker.io", "docker.io", "registry-1.docker.io"}

func fromDockerConfig(path, host string) func(context.Context) (authn.AuthConfig, error) {
	keys := []string{host, "https://" + host, "http://" + host}
	if host == "docker.io" || strings.HasSuffix(host, ".docker.io") {
		keys = append(keys, dockerHubKeys...)
	}
	return func(context.Context) (authn.AuthConfig, error) {
		raw, err := os.ReadFile(path)
		if err != nil {
			return authn.AuthConfig{}, err
		}
		file, err := dockerconfig.LoadFromReader(bytes.NewReader(raw))
		if err != nil {
			return authn.AuthConfig{}, fmt.Errorf("%s: %w", path, err)
		}
		for _, key := range keys {
			a, err := file.GetAuthConfig(key)
			if err != nil {
				return authn.AuthConfig{}, fmt.Errorf("%s: %s: %w", path, key, err)
			}
			if a.Username != "" || a.Password != "" || a.IdentityToken != "" || a.RegistryToken != "" {
				return authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}, nil
			}
		}
		return authn.AuthConfig{}, fmt.Errorf("%s: no credentials for %s", path, host)
	}
}

func newKeychain(kind string) (authn.Keychain, error) {
	switch kind {
	case "ecr":
		return helperKeychain{ecr.NewECRHelper()}, nil
	case "acr":
		return helperKeychain{acr.NewACRCredentialsHelper()}, nil
	case "gcr":
		return gcrKeychain{}, nil
	}
	return nil, fmt.Errorf("credentials: keychain %q: want ecr, gcr or acr", kind)
}

// helperKeychain is authn.NewKeychainFromHelper without its habit of turning
// every error into an anonymous pull.
type helperKeychain struct{ authn.Helper }

func (k helperKeychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	user, password, err := k.Get(r.RegistryStr())
	if err != nil {
		return nil, err
	}
	if user == "<token>" { // credential helper protocol: an identity token
		return authn.FromConfig(authn.AuthConfig{IdentityToken: password}), nil
	}
	return authn.FromConfig(authn.AuthConfig{Username: user, Password: password}), nil
}

// gcrKeychain is google.Keychain without its memory: that asks once and is
// anonymous for ever when the metadata service was not ready.
type gcrKeychain struct{}

func (gcrKeychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return gcrKeychain{}.ResolveContext(context.Background(), r)
}

func (gcrKeychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	host := r.RegistryStr()
	if host != "gcr.io" && !strings.HasSuffix(host, ".gcr.io") && !strings.HasSuffix(host, ".pkg.dev") {
		return nil, fmt.Errorf("%s is no registry of Google", host) // which gets no token of theirs
	}
	auth, err := google.NewEnvAuthenticator(ctx)
	if err == nil {
		return auth, nil
	}
	auth, cliErr := google.NewGcloudAuthenticator(ctx)
	if cliErr != nil {
		return nil, errors.Join(err, cliErr)
	}
	return auth, nil
}

func fromKeychain(keychain authn.Keychain, host string) func(context.Context) (authn.AuthConfig, error) {
	return func(ctx context.Context) (authn.AuthConfig, error) {
		registry, err := name.NewRegistry(host)
		if err != nil {
			return authn.AuthConfig{}, err
		}
		a, err := authn.Resolve(ctx, keychain, registry)
		if err != nil {
			return authn.AuthConfig{}, err
		}
		cfg, err := authn.Authorization(ctx, a)
		if err != nil {
			return authn.AuthConfig{}, err
		}
		if *cfg == (authn.AuthConfig{}) {
			return authn.AuthConfig{}, fmt.Errorf("the keychain has no credentials for %s", host)
		}
		return *cfg, nil
	}
}
