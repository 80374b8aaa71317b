package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pratique"
)

// BenchmarkDecide: 500 findings, 30 rules; the design asks for less than 50 µs.
func BenchmarkDecide(b *testing.B) {
	rnd := rand.New(rand.NewPCG(5, 5))
	rules := func(condition string) string {
		var p strings.Builder
		p.WriteString("name: bench\ndefault: allow\nrules:\n")
		for i := range 30 {
			fmt.Fprintf(&p, "  - {name: r%d, match: {repository: [team-%d/**, library/*]}, except: {tag: ['*-rc%d']}, %s, action: %s}\n",
				i, i, i, condition, pick(rnd, "deny", "warn"))
		}
		return p.String()
	}
	facts := scanned(randomFindings(rnd, 500)...)
	facts.Ref = pratique.Ref{Registry: "docker.io", Repo: "library/nginx", Tag: "1.27"}
	for _, c := range []struct{ name, condition string }{
		{"few findings match", "vulnerability: {severity: CRITICAL, fixable: true}"},
		{"all findings match", "vulnerability: {}"},
		{"nothing matches", "unsupported: {}"},
	} {
		set := load(b, rules(c.condition))
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				set.Decide(facts)
			}
		})
	}
}

// BenchmarkDecideProduction is a policy as production has them: thirty rules of
// every kind, with grace, an exempt rule, exceptions and VEX.
func BenchmarkDecideProduction(b *testing.B) {
	rnd := rand.New(rand.NewPCG(6, 6))
	var p strings.Builder
	p.WriteString("name: production\ndefault: allow\nrules:\n")
	for i, condition := range []string{
		"vulnerability: {severity: CRITICAL, fixable: true}", "vulnerability: {severity: HIGH, fixable: true}", "vulnerability: {severity: CRITICAL, kev: true}",
		"vulnerability: {severity: CRITICAL, epss: 0.5}", "vulnerability: {severity: CRITICAL, cvss: 9.5}", "vulnerability: {severity: CRITICAL, packages: [openssl*, glibc*]}",
		"secret: {severity: HIGH}", "misconfiguration: {set: docker-cis-1.6.0}", "license: {categories: [forbidden]}", "endOfLife: {}",
		"imageAge: {olderThan: 180d}", "cooldown: {youngerThan: 3d}", "tagMoved: {longerThan: 24h}", "outdated: {longerThan: 14d}", "baseOutdated: {longerThan: 14d}",
		"scanAge: {olderThan: 7d}", "databaseAge: {olderThan: 3d}", "unusedFor: {longerThan: 90d}", "signature: {by: [key]}", "provenance: {by: [ci]}",
		"unscanned: {}", "incomplete: {}", "scanFailed: {}", "unsupported: {}",
	} {
		grace := ""
		if i < 2 {
			grace = ", grace: {critical: 7d, default: 30d, kev: 1d}"
		}
		fmt.Fprintf(&p, "  - {name: r%d, match: {repository: [library/*]}, %s, action: deny%s}\n", i, condition, grace)
	}
	for i := range 5 {
		fmt.Fprintf(&p, "  - {name: team%d, match: {repository: [team-%d/**]}, vulnerability: {severity: MEDIUM}, action: warn}\n", i, i)
	}
	p.WriteString("  - {name: pause, match: {upstream: [registry.k8s.io], repository: [pause]}, action: exempt, lifts: [r0, r1, default], message: pods}\n")
	set := load(b, p.String())
	f := anyFacts(rnd)
	f.Report.State, f.Report.Findings = pratique.StateScanned, randomFindings(rnd, 500)
	f.Ref = pratique.Ref{Registry: "docker.io", Repo: "library/nginx", Tag: "1.27"}
	f.Exploits = &pratique.Exploits{KEVAt: testNow, EPSSAt: testNow, KEV: map[string]time.Time{"CVE-1": testNow}, EPSS: map[string]float32{"CVE-1": 1}}
	var es []pratique.Exception
	for i := range 100 {
		es = append(es, pratique.Exception{ID: fmt.Sprint(i), Finding: fmt.Sprintf("CVE-2023-%d", i), Repository: "docker.io/**", Expires: testNow.AddDate(1, 0, 0)})
	}
	es = append(es, pratique.Exception{ID: "this", Finding: f.Report.Findings[0].ID, Repository: "docker.io/**", Expires: testNow.AddDate(1, 0, 0)})
	for _, c := range []struct {
		name string
		es   []pratique.Exception
	}{{"nothing lifted", es[:100]}, {"one finding lifted", es}} {
		x, err := NewExceptions(c.es)
		if err != nil {
			b.Fatal(err)
		}
		f.Exceptions, f.Statements = x, NewStatements([]pratique.Statement{{IDs: []string{"CVE-1"}, Status: "fixed"}})
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				set.Decide(f)
			}
		})
	}
}
