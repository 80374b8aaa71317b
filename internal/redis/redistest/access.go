package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Access is what one needs to get into servers that let nobody in without: TLS of an
// authority of their own, a client certificate, and an ACL user's password. The default
// user may do nothing.
type Access struct {
	CA, Cert, Key      string // files, PEM: the authority; a client's certificate
	TLS                *tls.Config
	Username, Password string
	SentinelPassword   string // of sentinels; the same for all

	rights string // of the user
	dir    string
	inward bool // what asks sentinels, who have a password alone
}

// Names of the user who may do anything: of the test, and of servers among themselves.
const (
	adminName     = "admin"
	adminPassword = "of-the-admin"
)

// Secure makes one for a user with these rights, as ACL rules say them.
func Secure(tb testing.TB, rights string) *Access {
	tb.Helper()
	a := &Access{Username: "pratique", Password: "of pratique", SentinelPassword: "of-the-sentinels", rights: rights, dir: tb.TempDir()}
	a.CA, a.Cert, a.Key = a.file("ca.pem"), a.file("client.pem"), a.file("client.key")
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redistest"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	signer := a.issue(tb, authority, authority, nil, "ca")
	for i, name := range []string{"server", "client"} {
		a.issue(tb, &x509.Certificate{
			SerialNumber: big.NewInt(int64(2 + i)), Subject: pkix.Name{CommonName: name}, NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
			// A server is a client of others: of its master, of nodes of its cluster.
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		}, authority, signer, name)
	}
	pool := x509.NewCertPool()
	trusted, err := os.ReadFile(a.CA)
	if err != nil || !pool.AppendCertsFromPEM(trusted) {
		tb.Fatal("no authority: ", err)
	}
	pair, err := tls.LoadX509KeyPair(a.Cert, a.Key)
	if err != nil {
		tb.Fatal(err)
	}
	a.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{pair}}
	return a
}

func (a *Access) file(name string) string { return filepath.Join(a.dir, name) }

// issue writes a certificate and its key, signed by signer, or by itself.
func (a *Access) issue(tb testing.TB, cert, authority *x509.Certificate, signer *ecdsa.PrivateKey, name string) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, authority, &key.PublicKey, signer)
	if err != nil {
		tb.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(a.file(path), pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return key
}

func (a *Access) scheme(kind string) string {
	if a == nil {
		return "redis" + kind + "://"
	}
	return "rediss" + kind + "://"
}

// settings are those of the TLS of a server, by name.
func (a *Access) settings(port string) [][2]string {
	return [][2]string{
		{"port", "0"}, {"tls-port", port}, {"tls-cert-file", a.file("server.pem")}, {"tls-key-file", a.file("server.key")},
		{"tls-ca-cert-file", a.CA}, {"tls-auth-clients", "yes"}, {"tls-replication", "yes"}, {"tls-cluster", "yes"},
	}
}

// server is what a server is started with besides.
func (a *Access) server(port string) []string {
	if a == nil {
		return nil
	}
	var args []string
	for _, s := range a.settings(port) {
		args = append(args, "--"+s[0], s[1])
	}
	// Rules with blanks in them are no arguments: they are in a file.
	users := fmt.Sprintf("user default off\nuser %s on >%s ~* &* +@all\nuser %s on #%s %s\n", adminName, adminPassword, a.Username, sha(a.Password), a.rights)
	path := a.file("users-" + port + ".acl")
	if err := os.WriteFile(path, []byte(users), 0o600); err != nil {
		panic(err) // a directory of the test
	}
	return append(args, "--aclfile", path, "--masteruser", adminName, "--masterauth", adminPassword)
}

// sentinel is the same for a sentinel, as lines of its configuration.
func (a *Access) sentinel(port string) string {
	if a == nil {
		return ""
	}
	var b strings.Builder
	for _, s := range a.settings(port) {
		if s[0] != "tls-cluster" {
			fmt.Fprintf(&b, "%s %s\n", s[0], s[1])
		}
	}
	fmt.Fprintf(&b, "requirepass %s\nsentinel sentinel-pass %[1]s\nsentinel auth-user m %s\nsentinel auth-pass m %s\n", a.SentinelPassword, adminName, adminPassword)
	return b.String()
}

func (a *Access) ofSentinels() *Access {
	if a == nil {
		return nil
	}
	s := *a
	s.inward = true
	return &s
}

// admin is how a test asks a server.
func (a *Access) admin(addr string) *redis.Options {
	o := &redis.Options{Addr: addr}
	if a == nil {
		return o
	}
	o.TLSConfig, o.Username, o.Password = a.TLS, adminName, adminPassword
	if a.inward {
		o.Username, o.Password = "", a.SentinelPassword
	}
	return o
}

// sha is a password as ACL files have it that hold blanks.
func sha(password string) string {
	sum := sha256.Sum256([]byte(password))
	return hex.EncodeToString(sum[:])
}
