package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// factsDocument is how a case writes its facts. Digests are written as any
// word, of which they are the digest; "image" is the image itself.
type factsDocument struct {
	Now    date   `yaml:"now"` // if missing, 2026-11-01
	Ref    string `yaml:"ref"`
	Client string `yaml:"client"`

	Kind         pratique.ImageKind `yaml:"kind"` // if missing, image
	ArtifactType string             `yaml:"artifactType"`
	Annotations  map[string]string  `yaml:"annotations"`

	State      pratique.State    `yaml:"state"`
	Reported   string            `yaml:"reported"` // digest the report is about; if empty, the image's
	EOL        bool              `yaml:"eol"`
	EOLAt      date              `yaml:"eolAt"`
	OS         string            `yaml:"os"`       // "debian 9"
	Findings   []string          `yaml:"findings"` // KIND ID SEVERITY [PACKAGE INSTALLED [FIXED]] [KEY=VALUE …], see finding
	Problems   []string          `yaml:"problems"` // [!]SOURCE MESSAGE; ! = fatal
	Platform   string            `yaml:"platform"`
	User       string            `yaml:"user"`
	Labels     map[string]string `yaml:"labels"`
	Created    date              `yaml:"created"`
	FirstSeen  date              `yaml:"firstSeen"`
	ScannedAt  date              `yaml:"scannedAt"`  // if missing, 2026-10-31
	DatabaseAt date              `yaml:"databaseAt"` // if missing, unknown

	FirstServed date     `yaml:"firstServed"`
	LastServed  date     `yaml:"lastServed"`
	Current     []string `yaml:"current"` // tags
	Moved       []string `yaml:"moved"`   // TAG DATE [TO]
	Newer       []string `yaml:"newer"`   // TAG LEVEL SINCE [compliant]
	Base        string   `yaml:"base"`    // REF DIGEST HOW [MOVEDAT NOW]

	Checked    date                `yaml:"checked"`    // when attestations were looked for
	Signatures []string            `yaml:"signatures"` // BY KIND
	Provenance []string            `yaml:"provenance"` // BY BUILDER SOURCE
	Attested   []statementDocument `yaml:"attested"`   // VEX from referrers

	KEV  map[string]string  `yaml:"kev"`  // id → date; if missing, there is no list
	EPSS map[string]float64 `yaml:"epss"` // id → score; if missing, there are no scores

	Exceptions []exceptionDocument `yaml:"exceptions"`
	Statements []statementDocument `yaml:"statements"`
}

type exceptionDocument struct {
	ID         string `yaml:"id"`
	Finding    string `yaml:"finding"`
	Rule       string `yaml:"rule"`
	Package    string `yaml:"package"`
	Repository string `yaml:"repository"`
	Digest     string `yaml:"digest"`
	Platform   string `yaml:"platform"`
	Reason     string `yaml:"reason"`
	Ticket     string `yaml:"ticket"`
	Created    date   `yaml:"created"` // if missing, 2026-01-01
	Expires    date   `yaml:"expires"`
	Revoked    date   `yaml:"revoked"`
}

type statementDocument struct {
	ID            []string          `yaml:"id"`
	Status        string            `yaml:"status"`
	Justification string            `yaml:"justification"`
	Impact        string            `yaml:"impact"`
	At            date              `yaml:"at"`
	Image         string            `yaml:"image"`
	Products      []productDocument `yaml:"products"`
}

type productDocument struct {
	ID         string   `yaml:"id"` // IMAGE stands for the image's digest
	Components []string `yaml:"components"`
}

// date is a day or a moment (RFC 3339).
type date struct{ time.Time }

func (d *date) UnmarshalText(b []byte) (err error) {
	d.Time, err = parseDate(string(b))
	return err
}

func parseDate(s string) (time.Time, error) {
	if len(s) == len(time.DateOnly) {
		return time.Parse(time.DateOnly, s)
	}
	return time.Parse(time.RFC3339, s)
}

func (d date) or(t time.Time) time.Time {
	if d.IsZero() {
		return t
	}
	return d.Time
}

func mustDate(t testing.TB, s string) time.Time {
	t.Helper()
	at, err := parseDate(s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

var (
	imageDigest = digest.FromString("image")
	testNow     = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
)

// words splits a line into its words and its KEY=VALUE pairs, and pads the words.
func words(line string) (w []string, pairs map[string]string) {
	pairs = map[string]string{}
	for _, f := range strings.Fields(line) {
		if k, v, ok := strings.Cut(f, "="); ok && !strings.HasPrefix(f, "pkg:") && len(w) > 0 {
			pairs[k] = v
			continue
		}
		w = append(w, f)
	}
	return append(w, "", "", "", "", "", "", ""), pairs
}

// finding reads a line of a case. Pairs are cvss, status, ecosystem, purl, path,
// category, seen (a date), and worse (DATE/SEVERITY[/fixable], repeated with ";").
func finding(t testing.TB, line string) pratique.Finding {
	t.Helper()
	w, pairs := words(line)
	f := pratique.Finding{Kind: pratique.Kind(w[0]), ID: w[1], Severity: pratique.Severity(w[2]), Package: w[3], Installed: w[4], Fixed: w[5]}
	if w[2] == "-" {
		f.Severity = ""
	}
	for k, v := range pairs {
		switch k {
		case "cvss":
			score, err := strconv.ParseFloat(v, 64)
			if err != nil {
				t.Fatal(err)
			}
			f.CVSS = score
		case "status":
			f.Status = v
		case "ecosystem":
			f.Ecosystem = v
		case "purl":
			f.PURL = v
		case "path":
			f.Path = v
		case "category":
			f.Category = v
		case "seen":
			f.FirstSeen = mustDate(t, v)
		case "worse":
			for _, m := range strings.Split(v, ";") {
				p := append(strings.Split(m, "/"), "")
				f.Milestones = append(f.Milestones, pratique.Milestone{At: mustDate(t, p[0]), Severity: pratique.Severity(p[1]), Fixable: p[2] == "fixable"})
			}
		default:
			t.Fatalf("finding %q: unknown key %q", line, k)
		}
	}
	return f
}

// wordDigest is the digest that a word of a case stands for; "" stands for none.
func wordDigest(word string) digest.Digest {
	if word == "" {
		return ""
	}
	return digest.FromString(word)
}

func (d factsDocument) facts(t testing.TB) Facts {
	t.Helper()
	f := Facts{
		Image:       pratique.Image{Digest: imageDigest, Kind: pratique.KindImage, ArtifactType: d.ArtifactType, Annotations: d.Annotations, FirstSeen: d.FirstSeen.Time},
		Now:         d.Now.or(testNow),
		FirstServed: d.FirstServed.Time,
		LastServed:  d.LastServed.Time,
	}
	if d.Kind != "" {
		f.Image.Kind = d.Kind
	}
	f.Ref = parseRef(t, d.Ref)
	if d.Client != "" {
		f.Client = netip.MustParseAddr(d.Client)
	}
	f.Report = d.report(t)
	f.Lineage = d.lineage(t)
	f.Attestations = pratique.Attestations{Image: imageDigest, CheckedAt: d.Checked.Time, Statements: statements(d.Attested)}
	for _, line := range d.Signatures {
		w, _ := words(line)
		f.Attestations.Signatures = append(f.Attestations.Signatures, pratique.Signature{By: w[0], Kind: w[1], Digest: digest.FromString(line)})
	}
	for _, line := range d.Provenance {
		w := append(strings.Fields(line), "", "")
		f.Attestations.Provenance = append(f.Attestations.Provenance, pratique.Provenance{By: w[0], Builder: w[1], Source: w[2], Digest: digest.FromString(line)})
	}
	f.Exploits = d.exploits(t)
	if d.Exceptions != nil {
		f.Exceptions = exceptions(t, d.Exceptions)
	}
	if d.Statements != nil {
		f.Statements = NewStatements(statements(d.Statements))
	}
	return f
}

func parseRef(t testing.TB, s string) pratique.Ref {
	t.Helper()
	if s == "" {
		return pratique.Ref{}
	}
	r, err := pratique.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (d factsDocument) report(t testing.TB) pratique.Report {
	t.Helper()
	r := pratique.Report{
		Image: imageDigest, State: d.State, EOL: d.EOL, EOLAt: d.EOLAt.Time, FirstSeen: d.FirstSeen.Time,
		Engine:    pratique.Engine{Version: "v0.74.0", DatabaseAt: d.DatabaseAt.Time},
		ScannedAt: d.ScannedAt.or(testNow.AddDate(0, 0, -1)),
		Config:    pratique.ConfigFacts{Created: d.Created.Time, User: d.User, Labels: d.Labels},
	}
	if d.State == "unknown" {
		r.State = pratique.StateUnknown
	}
	if d.Reported != "" {
		r.Image = digest.FromString(d.Reported)
	}
	if d.Platform != "" {
		p, err := pratique.ParsePlatform(d.Platform)
		if err != nil {
			t.Fatal(err)
		}
		r.Config.Platform = p
	}
	r.OS.Family, r.OS.Name, _ = strings.Cut(d.OS, " ")
	for _, line := range d.Findings {
		r.Findings = append(r.Findings, finding(t, line))
	}
	for _, line := range d.Problems {
		source, message, _ := strings.Cut(line, " ")
		source, fatal := strings.CutPrefix(source, "!")
		r.Problems = append(r.Problems, pratique.Problem{Source: source, Message: message, Fatal: fatal})
	}
	return r
}

func (d factsDocument) lineage(t testing.TB) pratique.Lineage {
	t.Helper()
	l := pratique.Lineage{Current: d.Current}
	for _, line := range d.Moved {
		w, _ := words(line)
		l.Moved = append(l.Moved, pratique.TagMove{Tag: w[0], At: mustDate(t, w[1]), To: wordDigest(w[2])})
	}
	for _, line := range d.Newer {
		w, _ := words(line)
		l.Newer = append(l.Newer, pratique.Newer{Tag: w[0], Level: pratique.Level(w[1]), Since: mustDate(t, w[2]), Compliant: w[3] == "compliant"})
	}
	if d.Base != "" {
		w, _ := words(d.Base)
		l.Base = &pratique.Base{Ref: parseRef(t, w[0]), Digest: wordDigest(w[1]), How: w[2]}
		if w[3] != "" {
			l.Base.MovedAt, l.Base.Now = mustDate(t, w[3]), wordDigest(w[4])
		}
	}
	return l
}

func (d factsDocument) exploits(t testing.TB) *pratique.Exploits {
	t.Helper()
	if d.KEV == nil && d.EPSS == nil {
		return nil
	}
	x := &pratique.Exploits{Version: fmt.Sprint(d.KEV, d.EPSS)}
	if d.KEV != nil {
		x.KEVAt, x.KEV = testNow, map[string]time.Time{}
	}
	for id, at := range d.KEV {
		x.KEV[id] = mustDate(t, at)
	}
	if d.EPSS != nil {
		x.EPSSAt, x.EPSS = testNow, map[string]float32{}
	}
	for id, score := range d.EPSS {
		x.EPSS[id] = float32(score)
	}
	return x
}

func exceptions(t testing.TB, ds []exceptionDocument) *Exceptions {
	t.Helper()
	var out []pratique.Exception
	for _, d := range ds {
		e := pratique.Exception{
			ID: d.ID, Finding: d.Finding, Rule: d.Rule, Package: d.Package, Repository: d.Repository, Digest: wordDigest(d.Digest),
			Reason: d.Reason, Author: "ana", Ticket: d.Ticket, Created: d.Created.or(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)),
			Expires: d.Expires.Time, Revoked: d.Revoked.Time,
		}
		if d.Platform != "" {
			p, err := pratique.ParsePlatform(d.Platform)
			if err != nil {
				t.Fatal(err)
			}
			e.Platform = &p
		}
		out = append(out, e)
	}
	x, err := NewExceptions(out)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func statements(ds []statementDocument) []pratique.Statement {
	var out []pratique.Statement
	for i, d := range ds {
		s := pratique.Statement{
			Document: fmt.Sprintf("doc-%d", i), Source: "file:vex.json", IDs: d.ID, Status: d.Status,
			Justification: d.Justification, Impact: d.Impact, At: d.At.Time, Image: wordDigest(d.Image),
		}
		for _, p := range d.Products {
			s.Products = append(s.Products, pratique.Product{ID: strings.ReplaceAll(p.ID, "IMAGE", imageDigest.String()), Components: p.Components})
		}
		out = append(out, s)
	}
	return out
}
