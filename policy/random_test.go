package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// anyCondition is every condition, several ways; days is replaced by a duration.
var anyCondition = []string{
	"always: {}", "unscanned: {}", "incomplete: {}", "scanFailed: {}", "unsupported: {}",
	"vulnerability: {severity: HIGH}", "vulnerability: {fixable: true}", "vulnerability: {severity: CRITICAL, unknownSeverity: true}",
	"vulnerability: {kev: true}", "vulnerability: {epss: 0.5}", "vulnerability: {cvss: 7}", "vulnerability: {packages: [package-1*]}",
	"vulnerability: {status: [affected]}", "secret: {}", "secret: {severity: HIGH}", "misconfiguration: {set: docker-cis-1.6.0}", "license: {categories: [forbidden]}",
	"endOfLife: {}", "endOfLife: {within: DAYS}",
	"imageAge: {olderThan: DAYS}", "imageAge: {olderThan: DAYS, by: created}", "imageAge: {olderThan: DAYS, by: either}",
	"cooldown: {youngerThan: DAYS}", "cooldown: {youngerThan: DAYS, by: either}", "tagMoved: {longerThan: DAYS}",
	"outdated: {within: minor, longerThan: DAYS}", "baseOutdated: {longerThan: DAYS}", "scanAge: {olderThan: DAYS}",
	"databaseAge: {olderThan: DAYS}", "unusedFor: {longerThan: DAYS}", "signature: {by: [key]}", "provenance: {by: [ci]}",
	`expression: 'findings.exists(f, f.severity == "CRITICAL")'`,
}

// graced conditions may have a grace.
func graced(condition string) bool {
	for _, key := range []string{"vulnerability", "secret", "misconfiguration", "license", "endOfLife"} {
		if strings.HasPrefix(condition, key) {
			return true
		}
	}
	return false
}

// anyPolicy writes a policy of up to eight rules of every kind, exempt rules that
// lift some of them included.
func anyPolicy(rnd *rand.Rand, name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "name: %s\nmode: %s\ndefault: %s\nrules:", name, pick(rnd, "enforce", "enforce", "warn"), pick(rnd, "allow", "deny"))
	targets := []string{"unscanned", "incomplete", "scanFailed", "default"}
	for i := range 1 + rnd.IntN(7) {
		rule, liftable := anyRule(rnd, i, pick(rnd, "deny", "deny", "warn", "allow"))
		b.WriteString(rule)
		if liftable {
			targets = append(targets, fmt.Sprintf("r%d", i))
		}
	}
	if rnd.IntN(3) == 0 {
		b.WriteString(exemptRule(rnd, "x", pick(rnd, targets...), pick(rnd, targets...)))
	}
	return b.String() + "\n"
}

func anyRule(rnd *rand.Rand, i int, action string) (text string, liftable bool) {
	condition := days(rnd, pick(rnd, anyCondition...))
	grace := ""
	if action == "deny" && graced(condition) && rnd.IntN(2) == 0 {
		grace = ", grace: " + days(rnd, "DAYS")
		if !strings.HasPrefix(condition, "endOfLife") {
			grace = ", grace: " + days(rnd, pick(rnd, "DAYS", "{default: DAYS, critical: DAYS}", "{high: DAYS, kev: DAYS}"))
		}
	}
	match := pick(rnd, "", "", ", match: {repository: [library/*]}", ", match: {tag: ['1']}", ", match: {platform: [linux/amd64]}",
		", match: {client: [10.0.0.0/8]}", ", match: {artifactType: ['a*']}", ", match: {repository: [other]}")
	// A tag that no image has makes equal conditions distinct rules.
	return fmt.Sprintf("\n  - {name: r%d, %s%s, action: %s%s, except: {repository: [never%d]}}", i, condition, match, action, grace, i), action != "allow"
}

func exemptRule(rnd *rand.Rand, name string, targets ...string) string {
	condition := pick(rnd, "", ", "+days(rnd, pick(rnd, anyCondition...)))
	return fmt.Sprintf("\n  - {name: %s%s, match: {repository: ['%s']}, action: exempt, lifts: [%s], message: because}", name, condition,
		pick(rnd, "**", "library/x", "other"), strings.Join(targets, ", "))
}

func days(rnd *rand.Rand, text string) string {
	for strings.Contains(text, "DAYS") {
		text = strings.Replace(text, "DAYS", fmt.Sprintf("%dd", 1+rnd.IntN(20)), 1)
	}
	return text
}

// anyTime is a time around testNow, often on a whole day, sometimes none.
func anyTime(rnd *rand.Rand) time.Time {
	if rnd.IntN(5) == 0 {
		return time.Time{}
	}
	return testNow.Add(time.Duration(rnd.IntN(60*24)-40*24) * time.Hour).Truncate(pick(rnd, time.Hour, 24*time.Hour))
}

// anyFacts fills in every fact, or leaves it out.
func anyFacts(rnd *rand.Rand) Facts {
	f := randomFacts(rnd)
	f.Now = testNow
	f.Client = pick(rnd, netip.Addr{}, netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("11.1.1.1"))
	f.Image.ArtifactType = pick(rnd, "", "a", "b")
	f.Image.FirstSeen = anyTime(rnd)
	f.Report.State = pick(rnd, pratique.StateScanned, pratique.StateScanned, pratique.StateScanned, f.Report.State)
	f.Report.FirstSeen, f.Report.EOLAt, f.Report.ScannedAt = f.Image.FirstSeen, anyTime(rnd), anyTime(rnd)
	f.Report.Engine.DatabaseAt = anyTime(rnd)
	f.Report.Config = pratique.ConfigFacts{Created: anyTime(rnd), Platform: pick(rnd, pratique.Platform{}, pratique.Platform{OS: "linux", Architecture: "amd64"})}
	f.FirstServed = anyTime(rnd)
	if f.LastServed = f.FirstServed; !f.FirstServed.IsZero() {
		f.LastServed = f.FirstServed.Add(time.Duration(rnd.IntN(100)) * time.Hour)
	}
	f.Lineage = anyLineage(rnd)
	if rnd.IntN(2) == 0 {
		f.Attestations = pratique.Attestations{Image: imageDigest, CheckedAt: testNow}
		if rnd.IntN(2) == 0 {
			f.Attestations.Signatures = []pratique.Signature{{By: pick(rnd, "key", "other")}}
			f.Attestations.Provenance = []pratique.Provenance{{By: pick(rnd, "ci", "other")}}
		}
	}
	f.Exploits = pick(rnd, nil, &pratique.Exploits{KEVAt: testNow, EPSSAt: testNow})
	if f.Exploits != nil && len(f.Report.Findings) > 0 {
		id := f.Report.Findings[0].ID
		f.Exploits.KEV = map[string]time.Time{id: anyTime(rnd)}
		f.Exploits.EPSS = map[string]float32{id: rnd.Float32()}
	}
	f.Exceptions, f.Statements = anyExceptions(rnd, &f), anyStatements(rnd, &f)
	return f
}

func anyLineage(rnd *rand.Rand) pratique.Lineage {
	l := pratique.Lineage{Current: pick(rnd, nil, []string{"1"}, []string{"1.2.3"})}
	if rnd.IntN(2) == 0 {
		l.Moved = []pratique.TagMove{{Tag: pick(rnd, "1", "2"), To: digest.FromString("other"), At: anyTime(rnd)}}
	}
	if rnd.IntN(2) == 0 {
		l.Newer = []pratique.Newer{{Tag: "1.2.4", Level: pick(rnd, pratique.LevelPatch, pratique.LevelMinor, pratique.LevelMajor), Since: anyTime(rnd), Compliant: rnd.IntN(2) == 0}}
	}
	if rnd.IntN(2) == 0 {
		l.Base = &pratique.Base{Ref: pratique.Ref{Registry: "docker.io", Repo: "library/debian", Tag: "12"}, Digest: digest.FromString("base"), How: "layers", MovedAt: anyTime(rnd)}
	}
	return l
}

func anyExceptions(rnd *rand.Rand, f *Facts) *Exceptions {
	if rnd.IntN(2) == 0 {
		return nil
	}
	var es []pratique.Exception
	for i := range 1 + rnd.IntN(3) {
		e := pratique.Exception{ID: fmt.Sprintf("ex-%d", i), Repository: pick(rnd, "docker.io/**", "docker.io/library/x", "quay.io/x"), Reason: "r", Author: "a",
			Created: anyTime(rnd), Expires: anyTime(rnd)}
		switch n := len(f.Report.Findings); {
		case n > 0 && rnd.IntN(2) == 0:
			e.Finding = f.Report.Findings[rnd.IntN(n)].ID
		default:
			e.Rule = fmt.Sprintf("%s/r%d", pick(rnd, "first", "second"), rnd.IntN(5))
		}
		es = append(es, e)
	}
	x, err := NewExceptions(es)
	if err != nil {
		panic(err)
	}
	return x
}

func anyStatements(rnd *rand.Rand, f *Facts) *Statements {
	if rnd.IntN(3) > 0 || len(f.Report.Findings) == 0 {
		return nil
	}
	return NewStatements([]pratique.Statement{{
		IDs: []string{f.Report.Findings[0].ID}, Status: pick(rnd, "not_affected", "fixed", "affected"),
		Products: []pratique.Product{{ID: imageDigest.String()}},
	}})
}
