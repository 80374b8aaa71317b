package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pratique/tools/images"
)

// publicKey writes a key that nobody signed anything with.
func publicKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "release.pub")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRulesReadTheFactsOfTheProduct: each condition about what is in no report is
// in force in a running server, with facts from where they come from.
func TestRulesReadTheFactsOfTheProduct(t *testing.T) {
	upstream := startSample(t)
	r := startReloadable(t, upstream.host)
	for _, image := range []string{images.Clean, images.Vulnerable} {
		if _, err := r.pull(t, "lab/"+image); err != nil {
			t.Fatal(err)
		}
	}
	// The identity of a finding that the vulnerable image has.
	_, report := get(t, "http://"+r.admin+"/api/v1/check?ref=lab/"+images.Vulnerable)
	cve := firstCVE(report)
	if cve == "" {
		t.Fatalf("the vulnerable image has no CVE:\n%s", report)
	}
	dir := t.TempDir()
	now := time.Now().UTC()
	kev, epss := filepath.Join(dir, "kev.json"), filepath.Join(dir, "epss.csv")
	rewrite(t, kev, fmt.Sprintf(`{"catalogVersion": "1", "dateReleased": %q, "count": 1, "vulnerabilities": [{"cveID": %q, "dateAdded": %q}]}`,
		now.Format(time.RFC3339), cve, now.Format(time.DateOnly)))
	rewrite(t, epss, fmt.Sprintf("#model_version:v1,score_date:%s\ncve,epss,percentile\n%s,0.4,0.9\n", now.Format(time.RFC3339), cve))
	r.stop()
	if code := r.wait(t); code != 0 {
		t.Fatalf("exit %d", code)
	}
	r.text += fmt.Sprintf("trust: {identities: {release: {key: %q}}}\nexploits: {kev: %q, epss: %q}\n", publicKey(t), kev, epss)
	rewrite(t, r.file, r.text)
	r.product = startServe(t, r.file)
	r.ready(t)

	for _, tc := range []struct {
		condition string
		image     string // if empty, the clean one
		refusal   string // what it says; empty when the image is served
	}{
		// The first of all pulls of an image: what these read is known by then.
		{condition: "tagMoved: {}", image: images.MultiArch},
		{condition: "cooldown: {youngerThan: 1h}", image: images.AllRefused, refusal: "first seen 20"},
		{condition: "unusedFor: {longerThan: 1h}", image: images.Mixed},

		{condition: "cooldown: {youngerThan: 1h}", refusal: "younger than 1h"},
		{condition: "imageAge: {olderThan: 1h}"},
		{condition: "imageAge: {olderThan: 1h, by: created}", refusal: "older than 1h"},
		{condition: "scanAge: {olderThan: 1h}"},
		{condition: "databaseAge: {olderThan: 1h}", refusal: "vulnerability database of"},
		{condition: "unusedFor: {longerThan: 1h}"},
		{condition: "tagMoved: {}"},
		{condition: "outdated: {}"},
		{condition: "baseOutdated: {}"},
		{condition: "signature: {by: [release]}", refusal: "no verified signature by release"},
		{condition: "provenance: {by: [release]}", refusal: "no verified provenance"},
		{condition: "vulnerability: {kev: true}"},
		{condition: "vulnerability: {kev: true}", image: images.Vulnerable, refusal: cve},
		{condition: "vulnerability: {epss: 0.5}", image: images.Vulnerable},
		{condition: "vulnerability: {epss: 0.4}", image: images.Vulnerable, refusal: cve},
		{condition: "expression: findings.exists(f, f.kev && f.epss >= 0.4)", image: images.Vulnerable, refusal: cve},
		{condition: "expression: findings.exists(f, f.kev)"},
		{condition: `expression: client.within("127.0.0.0/8")`, refusal: "this holds"},
		{condition: `expression: client.within("10.0.0.0/8")`},
		{condition: `expression: '"1.0" in lineage.current && report.state == "scanned"'`, refusal: "this holds"},
		{condition: `expression: has(served.first) && now - served.last < duration("1h")`, refusal: "this holds"},
		{condition: `expression: attestations.signatures.size() > 0`},
		{condition: `expression: now - image.firstSeen > duration("1h")`},
	} {
		image := tc.image
		if image == "" {
			image = images.Clean
		}
		t.Run(tc.condition+" "+image, func(t *testing.T) {
			rewrite(t, r.policy, "name: p\ndefault: allow\nrules:\n  - name: x\n    action: deny\n    "+tc.condition+"\n")
			if status, _, body := r.reload(t); status != http.StatusOK {
				t.Fatalf("reload = %d %s", status, body)
			}
			_, err := r.pull(t, "lab/"+image)
			switch {
			case tc.refusal == "" && err != nil:
				t.Error(err)
			case tc.refusal != "" && (!refused(err) || !strings.Contains(err.Error(), tc.refusal)):
				t.Errorf("%v, want %q in it", err, tc.refusal)
			}
		})
	}

	t.Run("a rule about somebody who is not configured is refused", func(t *testing.T) {
		rewrite(t, r.policy, "name: p\nrules:\n  - {name: x, action: deny, signature: {by: [relaese]}}\n")
		if status, _, body := r.reload(t); status != http.StatusUnprocessableEntity || !strings.Contains(body, "did you mean `release`?") {
			t.Errorf("reload = %d %s", status, body)
		}
	})
}

// firstCVE is the first of all ids in a text.
func firstCVE(text string) string {
	_, rest, ok := strings.Cut(text, "CVE-")
	if !ok {
		return ""
	}
	n := strings.IndexFunc(rest, func(c rune) bool { return c != '-' && (c < '0' || c > '9') })
	if n < 0 {
		return ""
	}
	return "CVE-" + rest[:n]
}
