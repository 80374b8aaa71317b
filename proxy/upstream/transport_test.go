package upstream

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestTransportKeepsToConfiguredHosts(t *testing.T) {
	known := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			http.Redirect(w, r, r.Header.Get("X-Target"), http.StatusTemporaryRedirect)
		}
	}))
	defer known.Close()
	asked := 0
	unknown := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer unknown.Close()

	private, err := New("lab", Config{URL: known.URL, Private: true})
	if err != nil {
		t.Fatal(err)
	}
	defer private.Close()
	client := &http.Client{Transport: Transport(private)}

	get := func(url string) error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Target", unknown.URL)
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
	if err := get(known.URL + "/db"); err != nil {
		t.Errorf("a host configured as private: %v", err)
	}
	for name, url := range map[string]string{
		"a private address that is no upstream":      unknown.URL,
		"a redirect to one":                          known.URL + "/elsewhere",
		"the metadata service":                       "http://169.254.169.254/latest",
		"loopback by name":                           "http://localhost:1/",
		"the configured host under the other scheme": "https" + known.URL[len("http"):] + "/db",
	} {
		if err := get(url); !errors.Is(err, errForbidden) {
			t.Errorf("%s: got %v, want it forbidden", name, err)
		}
	}
	if asked > 0 {
		t.Errorf("the host that is no upstream was asked %d times", asked)
	}
}
