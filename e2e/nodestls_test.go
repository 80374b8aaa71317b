//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pratique/tools/images"
)

// TestNodesConfigSecured: Pratique behind a front that wants the nodes'
// certificate and a login, both for the host and, when that fails, for the
// server: a line that one of the two lacks would show as an error that says
// nothing of the refusal.
func TestNodesConfigSecured(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	pushCanary(t, u)
	p := StartPratique(t, u, Options{})
	dir := workdir(t, "pki")
	authority := newAuthority(t, dir)
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte("pass: \"word\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var let, kept atomic.Int32
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: p.Registry})
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, pass, ok := r.BasicAuth(); !ok || user != "node" || pass != "pass: \"word\"" {
			kept.Add(1)
			w.Header().Set("WWW-Authenticate", `Basic realm="front"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		let.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	front.TLS = &tls.Config{Certificates: []tls.Certificate{authority.issue(t, "front")}, ClientCAs: authority.pool, ClientAuth: tls.RequireAndVerifyClientCert}
	front.StartTLS()
	t.Cleanup(front.Close)
	authority.issue(t, "node")

	args := []string{"--ca", filepath.Join(dir, "ca.crt"), "--cert", filepath.Join(dir, "node.crt"), "--key", filepath.Join(dir, "node.key"),
		"--username", "node", "--password-file", password}
	root := generate(t, front.URL, "containerd", nil, args...)
	c := StartContainerd(t, nil)
	if err := os.CopyFS(c.hosts, os.DirFS(filepath.Join(root, "etc/containerd/certs.d"))); err != nil {
		t.Fatal(err)
	}
	for name, client := range map[string]Client{"containerd": c.CRI(), "ctr": c.Ctr()} {
		t.Run(name, func(t *testing.T) {
			u.Forget()
			if r := client.Pull(t, images.Clean, "amd64"); r.exit != 0 {
				t.Errorf("allowed: exit %d:\n%s", r.exit, r.output)
			}
			r := client.Pull(t, images.Vulnerable, "amd64")
			if r.exit == 0 || !strings.Contains(r.output, refusal) {
				t.Errorf("refused: exit %d, want it to say why:\n%s", r.exit, r.output)
			}
			if went := past(u); len(went) > 0 {
				t.Errorf("went past Pratique:\n%s", strings.Join(went, "\n"))
			}
		})
	}
	if let.Load() == 0 || kept.Load() > 0 {
		t.Errorf("the front let %d requests through and kept %d out", let.Load(), kept.Load())
	}

	front.CloseClientConnections()
	n := node{runtime: "containerd", root: root, pull: binary(t, "criclient") + " " + c.socket + " pull"}
	if e := n.doctorAt(t, front.URL, u, root, args...); e.exit != 0 {
		t.Errorf("doctor: exit %d:\n%s", e.exit, e.text)
	}
}

// authority signs certificates for 127.0.0.1.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB, dir string) *authority {
	t.Helper()
	a := &authority{dir: dir, pool: x509.NewCertPool()}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	raw := a.sign(t, a.cert, &a.key.PublicKey)
	if a.cert, err = x509.ParseCertificate(raw); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	writePEM(t, filepath.Join(dir, "ca.crt"), "CERTIFICATE", raw)
	return a
}

func (a *authority) sign(t testing.TB, cert *x509.Certificate, key *ecdsa.PublicKey) []byte {
	t.Helper()
	raw, err := x509.CreateCertificate(rand.Reader, cert, a.cert, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// issue writes NAME.crt and NAME.key.
func (a *authority) issue(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw := a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, &key.PublicKey)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
	writePEM(t, certFile, "CERTIFICATE", raw)
	writePEM(t, keyFile, "PRIVATE KEY", secret)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func writePEM(t testing.TB, path, kind string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}), 0o600); err != nil {
		t.Fatal(err)
	}
}
