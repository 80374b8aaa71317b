package cases

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
)

// Image is the digest of the image that every case is about: what the word "image"
// stands for.
const Image digest.Digest = "sha256:6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"

// Digest is what a word of a case stands for where a digest is meant; "" is none.
func Digest(word string) digest.Digest {
	if word == "" {
		return ""
	}
	return digest.FromString(word)
}

// Now is the time of a case that says nothing else.
func Now() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) }

// Facts is how a case writes its facts. Digests are written as any word, of which
// they are the digest; "image" is the image itself. Dates are a day or a moment.
type Facts struct {
	Now    Date   `yaml:"now"`    // if missing, 2026-11-01
	Ref    string `yaml:"ref"`    // UPSTREAM/REPOSITORY[:TAG][@DIGEST]
	Client string `yaml:"client"` // IP address

	Kind         pratique.ImageKind `yaml:"kind"` // if missing, image
	ArtifactType string             `yaml:"artifactType"`
	Annotations  map[string]string  `yaml:"annotations"`

	State      pratique.State    `yaml:"state"`    // if missing, unknown: never scanned
	Reported   string            `yaml:"reported"` // digest the report is about; if missing, the image's
	EOL        bool              `yaml:"eol"`
	EOLAt      Date              `yaml:"eolAt"`
	OS         string            `yaml:"os"`       // "debian 9"
	Findings   []string          `yaml:"findings"` // KIND ID SEVERITY [PACKAGE INSTALLED [FIXED]] [KEY=VALUE …], see finding
	Problems   []string          `yaml:"problems"` // [!]SOURCE MESSAGE; ! = fatal
	Platform   string            `yaml:"platform"`
	User       string            `yaml:"user"`
	Labels     map[string]string `yaml:"labels"`
	Created    Date              `yaml:"created"`
	FirstSeen  Date              `yaml:"firstSeen"`
	ScannedAt  Date              `yaml:"scannedAt"`  // if missing, 2026-10-31
	DatabaseAt Date              `yaml:"databaseAt"` // if missing, not known

	FirstServed Date     `yaml:"firstServed"`
	LastServed  Date     `yaml:"lastServed"`
	Current     []string `yaml:"current"`   // tags
	Moved       []string `yaml:"moved"`     // TAG DATE [TO]
	Elsewhere   []string `yaml:"elsewhere"` // tags that surely name another image
	Newer       []string `yaml:"newer"`     // TAG LEVEL SINCE [compliant]
	Base        string   `yaml:"base"`      // REF DIGEST HOW [MOVEDAT NOW]

	Checked    Date        `yaml:"checked"`    // when attestations were looked for
	Signatures []string    `yaml:"signatures"` // BY KIND
	Provenance []string    `yaml:"provenance"` // BY BUILDER SOURCE
	Attested   []Statement `yaml:"attested"`   // VEX from referrers

	KEV  map[string]string  `yaml:"kev"`  // id → date; if missing, there is no list
	EPSS map[string]float64 `yaml:"epss"` // id → score; if missing, there are no scores

	Exceptions []Exception `yaml:"exceptions"`
	Statements []Statement `yaml:"statements"` // VEX from files
}

// Exception is how a case writes one.
type Exception struct {
	ID         string `yaml:"id"`
	Finding    string `yaml:"finding"`
	Rule       string `yaml:"rule"`
	Package    string `yaml:"package"`
	Repository string `yaml:"repository"`
	Digest     string `yaml:"digest"`
	Platform   string `yaml:"platform"`
	Reason     string `yaml:"reason"`
	Author     string `yaml:"author"` // if missing, ana
	Ticket     string `yaml:"ticket"`
	Created    Date   `yaml:"created"` // if missing, 2026-01-01
	Expires    Date   `yaml:"expires"`
	Revoked    Date   `yaml:"revoked"`
}

// Statement is how a case writes what a VEX document says.
type Statement struct {
	ID            []string  `yaml:"id"`
	Status        string    `yaml:"status"`
	Justification string    `yaml:"justification"`
	Impact        string    `yaml:"impact"`
	At            Date      `yaml:"at"`
	Image         string    `yaml:"image"`
	Products      []Product `yaml:"products"`
}

// Product is how a case writes what a Statement is about.
type Product struct {
	ID         string   `yaml:"id"` // IMAGE stands for the image's digest
	Components []string `yaml:"components"`
}

// Date is a day or a moment (RFC 3339).
type Date struct{ time.Time }

// UnmarshalText reads either.
func (d *Date) UnmarshalText(b []byte) (err error) {
	d.Time, err = parseDate(string(b))
	return err
}

func parseDate(s string) (time.Time, error) {
	layout := time.RFC3339
	if len(s) == len(time.DateOnly) {
		layout = time.DateOnly
	}
	t, err := time.Parse(layout, s)
	if err != nil {
		return t, fmt.Errorf("date %q: want 2026-11-01 or 2026-11-01T12:00:00Z", s)
	}
	return t, nil
}

func (d Date) or(t time.Time) time.Time {
	if d.IsZero() {
		return t
	}
	return d.Time
}

// Policy makes facts of what is written. The error joins every mistake.
func (d *Facts) Policy() (policy.Facts, error) {
	var l lines
	f := policy.Facts{
		Ref:         l.ref("ref", d.Ref),
		Image:       pratique.Image{Digest: Image, Kind: pratique.KindImage, ArtifactType: d.ArtifactType, Annotations: d.Annotations, FirstSeen: d.FirstSeen.Time},
		Report:      d.report(&l),
		Now:         d.Now.or(Now()),
		FirstServed: d.FirstServed.Time,
		LastServed:  d.LastServed.Time,
		Lineage:     d.lineage(&l),
		Exploits:    d.exploits(&l),
	}
	switch d.Kind {
	case "":
	case pratique.KindImage, pratique.KindArtifact:
		f.Image.Kind = d.Kind
	default:
		l.fail("kind", string(d.Kind), "want image or artifact")
	}
	if d.Client != "" {
		var err error
		if f.Client, err = netip.ParseAddr(d.Client); err != nil {
			l.fail("client", d.Client, "want an IP address")
		}
	}
	f.Attestations = pratique.Attestations{Image: Image, CheckedAt: d.Checked.Time, Statements: statements(d.Attested)}
	for _, line := range d.Signatures {
		w := l.words("signatures", line, 1, 2)
		f.Attestations.Signatures = append(f.Attestations.Signatures, pratique.Signature{By: w[0], Kind: w[1], Digest: Digest(line)})
	}
	for _, line := range d.Provenance {
		w := l.words("provenance", line, 1, 3)
		f.Attestations.Provenance = append(f.Attestations.Provenance, pratique.Provenance{By: w[0], Builder: w[1], Source: w[2], Digest: Digest(line)})
	}
	if d.Exceptions != nil {
		f.Exceptions = d.exceptions(&l)
	}
	if d.Statements != nil {
		f.Statements = policy.NewStatements(statements(d.Statements))
	}
	return f, l.err()
}

func (d *Facts) report(l *lines) pratique.Report {
	r := pratique.Report{
		Image: Image, State: d.State, EOL: d.EOL, EOLAt: d.EOLAt.Time, FirstSeen: d.FirstSeen.Time,
		Engine:    pratique.Engine{Version: "v0.74.0", DatabaseAt: d.DatabaseAt.Time},
		ScannedAt: d.ScannedAt.or(Now().AddDate(0, 0, -1)),
		Config:    pratique.ConfigFacts{Created: d.Created.Time, User: d.User, Labels: d.Labels, Platform: l.platform("platform", d.Platform)},
	}
	if d.State == "unknown" {
		r.State = pratique.StateUnknown
	}
	if err := r.State.Validate(); err != nil {
		l.fail("state", string(d.State), "want unknown, pending, scanned, incomplete, failed or unsupported")
	}
	if d.Reported != "" {
		r.Image = Digest(d.Reported)
	}
	r.OS.Family, r.OS.Name, _ = strings.Cut(d.OS, " ")
	for _, line := range d.Findings {
		r.Findings = append(r.Findings, l.finding(line))
	}
	for _, line := range d.Problems {
		source, message, _ := strings.Cut(line, " ")
		source, fatal := strings.CutPrefix(source, "!")
		r.Problems = append(r.Problems, pratique.Problem{Source: source, Message: message, Fatal: fatal})
	}
	return r
}

func (d *Facts) lineage(l *lines) pratique.Lineage {
	out := pratique.Lineage{Current: d.Current, Elsewhere: d.Elsewhere}
	for _, line := range d.Moved {
		w := l.words("moved", line, 2, 3)
		out.Moved = append(out.Moved, pratique.TagMove{Tag: w[0], At: l.date("moved", w[1]), To: Digest(w[2])})
	}
	for _, line := range d.Newer {
		w := l.words("newer", line, 3, 4)
		out.Newer = append(out.Newer, pratique.Newer{Tag: w[0], Level: pratique.Level(w[1]), Since: l.date("newer", w[2]), Compliant: w[3] == "compliant"})
	}
	if d.Base != "" {
		w := l.words("base", d.Base, 3, 5)
		out.Base = &pratique.Base{Ref: l.ref("base", w[0]), Digest: Digest(w[1]), How: w[2]}
		if w[3] != "" {
			out.Base.MovedAt, out.Base.Now = l.date("base", w[3]), Digest(w[4])
		}
	}
	return out
}

func (d *Facts) exploits(l *lines) *pratique.Exploits {
	if d.KEV == nil && d.EPSS == nil {
		return nil
	}
	x := &pratique.Exploits{Version: fmt.Sprint(d.KEV, d.EPSS)}
	if d.KEV != nil {
		x.KEVAt, x.KEV = Now(), make(map[string]time.Time, len(d.KEV))
	}
	for id, at := range d.KEV {
		x.KEV[id] = l.date("kev", at)
	}
	if d.EPSS != nil {
		x.EPSSAt, x.EPSS = Now(), make(map[string]float32, len(d.EPSS))
	}
	for id, score := range d.EPSS {
		x.EPSS[id] = float32(score)
	}
	return x
}

func (d *Facts) exceptions(l *lines) *policy.Exceptions {
	var out []pratique.Exception
	for _, x := range d.Exceptions {
		e := pratique.Exception{
			ID: x.ID, Finding: x.Finding, Rule: x.Rule, Package: x.Package, Repository: x.Repository, Digest: Digest(x.Digest),
			Reason: x.Reason, Author: x.Author, Ticket: x.Ticket, Created: x.Created.or(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)),
			Expires: x.Expires.Time, Revoked: x.Revoked.Time,
		}
		if e.Author == "" {
			e.Author = "ana"
		}
		if x.Platform != "" {
			p := l.platform("exceptions", x.Platform)
			e.Platform = &p
		}
		out = append(out, e)
	}
	all, err := policy.NewExceptions(out)
	l.add(err)
	return all
}

func statements(ds []Statement) []pratique.Statement {
	var out []pratique.Statement
	for i, d := range ds {
		s := pratique.Statement{
			Document: fmt.Sprintf("doc-%d", i), Source: "file:vex.json", IDs: d.ID, Status: d.Status,
			Justification: d.Justification, Impact: d.Impact, At: d.At.Time, Image: Digest(d.Image),
		}
		for _, p := range d.Products {
			s.Products = append(s.Products, pratique.Product{ID: strings.ReplaceAll(p.ID, "IMAGE", Image.String()), Components: p.Components})
		}
		out = append(out, s)
	}
	return out
}
