//go:build e2e && chaos

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// table is what clients met, by phase.
func (c *judged) table() string {
	var b strings.Builder
	b.WriteString("| while | s | pulls |")
	for _, name := range outcomeNames {
		b.WriteString(" " + name + " |")
	}
	b.WriteString(" 503 of known | median ms | p99 ms |\n|---|---:|---:|" + strings.Repeat("---:|", int(outcomes)) + "---:|---:|---:|\n")
	for _, ph := range c.phases {
		ps := c.load.between(ph.from, ph.to)
		var n [outcomes]int
		_, known := c.load.known(ph)
		var took []time.Duration
		for _, p := range ps {
			n[p.outcome]++
			if p.outcome == served {
				took = append(took, p.took)
			}
		}
		fmt.Fprintf(&b, "| %s | %.0f | %d |", ph.name, (ph.to - ph.from).Seconds(), len(ps))
		for _, k := range n {
			fmt.Fprintf(&b, " %d |", k)
		}
		slices.Sort(took)
		at := func(q float64) float64 {
			if len(took) == 0 {
				return 0
			}
			return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000
		}
		fmt.Fprintf(&b, " %d | %.1f | %.1f |\n", known, at(0.5), at(0.99))
	}
	c.load.mu.Lock()
	defer c.load.mu.Unlock()
	fmt.Fprintf(&b, "\n%d pulls in %.0f s, %d images. Wrong bytes and leaks of refused content: %d. Scans lost: 0 (every image is decided on by every replica in the end, no job is dead). "+
		"Events: %d ids, %d of them delivered more than once, no scan told under two ids. Blobs asked of the upstream: %d, %d of them more than once.\n",
		len(c.load.pulls), c.seconds, c.images, len(c.load.wrong), c.ids, c.again, c.blobs, c.fetched)
	return b.String()
}

// Marks around what is generated in docs/reliability.md.
const (
	chaosBegin = "<!-- chaos: made by make chaos -->\n"
	chaosEnd   = "<!-- /chaos -->\n"
)

// write puts the table and the plot into docs.
func (c *judged) write(t *testing.T) {
	t.Helper()
	if t.Failed() {
		t.Fatal("nothing is written of a run that failed")
	}
	name := filepath.Join(root(t), "docs/reliability.md")
	old, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(old), chaosBegin)
	_, after, ok2 := strings.Cut(rest, chaosEnd)
	if !ok || !ok2 {
		t.Fatal("docs/reliability.md lost its marks")
	}
	version, _ := exec.Command("redis-server", "--version").Output()
	machine := fmt.Sprintf("%s, %s, 2 cores for everything: 3 replicas, 2 Redis, 3 Sentinels, S3, upstream and clients; %d pulls/s.\n\n",
		time.Now().UTC().Format("2006-01-02"), strings.TrimSpace(strings.Split(string(version), " sha=")[0]), chaosRate)
	text := before + chaosBegin + machine + c.table() + "\n![what clients met, second by second](plots/chaos.svg)\n" + chaosEnd + after
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root(t), "docs/plots/chaos.svg"), []byte(c.plot()), 0o644); err != nil {
		t.Fatal(err)
	}
}

var outcomeColours = [outcomes]string{"#4a8f5a", "#3b6ea5", "#d9b44a", "#d9822b", "#999999", "#b03030"}

// plot is a stacked column for each second, under the names of the phases.
func (c *judged) plot() string {
	const left, top, height, column = 50.0, 190.0, 220.0, 3.0
	n := int(c.seconds) + 1
	rows := make([][outcomes]int, n)
	most := 1
	for _, p := range c.load.between(0, time.Duration(n)*time.Second) {
		rows[int(p.at.Seconds())][p.outcome]++
	}
	for _, r := range rows {
		sum := 0
		for _, k := range r {
			sum += k
		}
		most = max(most, sum)
	}
	width := left + float64(n)*column + 20
	y := func(k int) float64 { return float64(k) / float64(most) * height }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="11">`+"\n", max(width+150, 620), top+height+60) // the last name is long
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n")
	for _, ph := range c.phases {
		if ph.d == nil {
			continue
		}
		x := left + ph.from.Seconds()*column
		fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="#f1e4e4"/>`+"\n", x, top, (ph.to-ph.from).Seconds()*column, height)
		fmt.Fprintf(&b, `<text transform="translate(%.1f %.1f) rotate(-35)">%s</text>`+"\n", x+4, top-6, ph.name)
	}
	for s, r := range rows {
		base := top + height
		for o, k := range r {
			if k == 0 {
				continue
			}
			base -= y(k)
			fmt.Fprintf(&b, `<rect x="%.1f" y="%.2f" width="%.1f" height="%.2f" fill="%s"/>`+"\n", left+float64(s)*column, base, column, y(k), outcomeColours[o])
		}
	}
	for _, k := range []int{0, most / 2, most} {
		fmt.Fprintf(&b, `<text x="%.0f" y="%.1f" text-anchor="end">%d</text>`+"\n", left-6, top+height-y(k)+4, k)
	}
	for s := 0; s < n; s += max(10, n/10/10*10) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle">%d s</text>`+"\n", left+float64(s)*column, top+height+16, s)
	}
	x := left
	for o, name := range outcomeNames {
		fmt.Fprintf(&b, `<rect x="%.0f" y="%.0f" width="10" height="10" fill="%s"/><text x="%.0f" y="%.0f">%s</text>`+"\n", x, top+height+32, outcomeColours[o], x+14, top+height+41, name)
		x += 24 + 6.5*float64(len(name))
	}
	fmt.Fprintf(&b, `<text x="%.0f" y="16">pulls that began in each second, by how they ended</text>`+"\n</svg>\n", left)
	return b.String()
}
