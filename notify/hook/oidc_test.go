package hook

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// google is where keys are had, with the keys that it has.
type google struct {
	*httptest.Server
	mu      sync.Mutex
	keys    map[string]*rsa.PrivateKey
	fetched int
	down    bool
}

func newGoogle(t *testing.T) *google {
	t.Helper()
	g := &google{keys: map[string]*rsa.PrivateKey{}}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.fetched++
		if g.down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var keys []map[string]string
		for id, k := range g.keys {
			keys = append(keys, map[string]string{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": id,
				"n": base64.RawURLEncoding.EncodeToString(k.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(k.E)).Bytes())})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys})
	}))
	t.Cleanup(g.Close)
	return g
}

// rotate adds a key.
func (g *google) rotate(t *testing.T, id string) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.keys[id] = k
	return k
}

func segment(v any) string {
	raw, _ := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// token signs claims.
func token(t *testing.T, k *rsa.PrivateKey, id string, claims map[string]any) string {
	t.Helper()
	text := segment(map[string]string{"alg": "RS256", "typ": "JWT", "kid": id}) + "." + segment(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func TestTokens(t *testing.T) {
	g := newGoogle(t)
	key := g.rotate(t, "one")
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	d := newDesk(t, Receiver{
		Type: ArtifactRegistry, Auth: OIDC, Audience: "https://pratique.example.com/hooks/lab",
		Account: "push@my-project.iam.gserviceaccount.com", KeysURL: g.URL, Keys: tr, Hosts: []string{"us-east1-docker.pkg.dev"},
	})
	good := func() map[string]any {
		return map[string]any{
			"iss": "https://accounts.google.com", "aud": "https://pratique.example.com/hooks/lab", "sub": "113774264463038321964", "azp": "113774264463038321964",
			"email": "push@my-project.iam.gserviceaccount.com", "email_verified": true, "iat": d.now.Unix(), "exp": d.now.Add(time.Hour).Unix(),
		}
	}
	with := func(k string, v any) map[string]any {
		c := maps.Clone(good())
		if c[k] = v; v == nil {
			delete(c, k)
		}
		return c
	}
	n := 0
	push := func(authorization string) int {
		n++
		data := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, `{"action": "INSERT", "tag": "us-east1-docker.pkg.dev/p/r/app:%d"}`, n))
		return d.call("/hooks/lab", fmt.Sprintf(`{"message": {"data": %q, "messageId": "%d"}}`, data, n), "Authorization", authorization).Code
	}
	signed := func(c map[string]any) string { return "Bearer " + token(t, key, "one", c) }
	whole := signed(good())
	parts := strings.Split(whole, ".")
	forged := hmac.New(sha256.New, key.N.Bytes()) // the public key as the secret of HS256
	head := segment(map[string]string{"alg": "HS256", "kid": "one"}) + "." + segment(good())
	forged.Write([]byte(head))
	for name, tt := range map[string]struct {
		send string
		want int
	}{
		"good":               {whole, 202},
		"lower-case scheme":  {"b" + whole[1:], 202},
		"ended a moment ago": {signed(with("exp", d.now.Add(-30*time.Second).Unix())), 202},
		"ended":              {signed(with("exp", d.now.Add(-2*time.Minute).Unix())), 401},
		"without an end":     {signed(with("exp", nil)), 401},
		"other issuer":       {signed(with("iss", "https://evil.example")), 401},
		"no issuer":          {signed(with("iss", nil)), 401},
		"other audience":     {signed(with("aud", "https://other.example.com/hooks/lab")), 401},
		"no audience":        {signed(with("aud", nil)), 401},
		"other account":      {signed(with("email", "other@my-project.iam.gserviceaccount.com")), 401},
		"no account":         {signed(with("email", nil)), 401},
		"not verified":       {signed(with("email_verified", false)), 401},
		"verified as a word": {signed(with("email_verified", "true")), 401},
		"no scheme":          {whole[7:], 401},
		"other scheme":       {"Basic" + whole[6:], 401},
		"nothing":            {"", 401},
		"garbage":            {"Bearer a.b.c", 401},
		"long":               {"Bearer " + strings.Repeat("a", 10_000), 401},
		"other claims":       {parts[0] + "." + segment(with("email", "x")) + "." + parts[2], 401},
		"unsigned":           {"Bearer " + segment(map[string]string{"alg": "none"}) + "." + segment(good()) + ".", 401},
		"HMAC by public key": {"Bearer " + head + "." + base64.RawURLEncoding.EncodeToString(forged.Sum(nil)), 401},
	} {
		if got := push(tt.send); got != tt.want {
			t.Errorf("%s: %d", name, got)
		}
	}
	if strings.Contains(d.log.String(), parts[2]) || strings.Contains(d.log.String(), parts[1]) {
		t.Errorf("the log has a token:\n%s", d.log.String())
	}
	if got := len(d.all()); got != 3 {
		t.Errorf("%d pushes", got)
	}

	// Keys are kept, and had anew when a token names one that is not known: not more
	// often than every few seconds, whatever the tokens are.
	if g.fetched > 1 {
		t.Errorf("keys were fetched %d times", g.fetched)
	}
	second := g.rotate(t, "two")
	for range 20 {
		if got := push("Bearer " + token(t, second, "unknown", good())); got != 401 {
			t.Errorf("a key that nobody has: %d", got)
		}
	}
	d.now = d.now.Add(time.Minute)
	if got := push("Bearer " + token(t, second, "two", good())); got != 202 {
		t.Errorf("a new key: %d", got)
	}
	if g.fetched > 2 {
		t.Errorf("keys were fetched %d times", g.fetched)
	}
	g.mu.Lock()
	g.down = true
	g.mu.Unlock()
	d.now = d.now.Add(time.Minute)
	if got := push("Bearer " + token(t, key, "unknown", good())); got != 401 {
		t.Errorf("keys cannot be had: %d", got)
	}
	if got := push(signed(good())); got != 202 {
		t.Errorf("keys cannot be had, and this one is known: %d", got)
	}
}
