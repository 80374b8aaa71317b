package notify

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"pratique"
	"pratique/store"
)

// maxExamples of a summary.
const maxExamples = 5

// summary makes one event of many. Its id follows from theirs: sent again after a
// crash, it is the same.
func summary(g []store.Delivery, now time.Time) (store.Event, error) {
	if g[0].Event.Type == TypeScanned {
		return summariseScans(g, now)
	}
	return summariseChanges(g, now)
}

// entry is one event of a summary: the heavier, the sooner it is an example.
type entry struct {
	text   string
	weight int
}

func examples(es []entry) []string {
	slices.SortStableFunc(es, func(a, b entry) int { return b.weight - a.weight })
	out := []string{}
	for _, e := range es[:min(len(es), maxExamples)] {
		out = append(out, e.text)
	}
	return out
}

// sumUp is the event that stands for others.
func sumUp(kind string, g []store.Delivery, ids []string, now time.Time, data any) (store.Event, error) {
	parts := []any{kind}
	for _, s := range ids {
		parts = append(parts, s)
	}
	e, err := event(kind, id(parts...), g[0].Event.Cause, "", "", now, data)
	e.Cause = g[0].Event.Cause
	return e, err
}

func first(text string, examples []string) string {
	return line(text+" First of them:") + "\n• " + strings.Join(examples, "\n• ")
}

func summariseChanges(g []store.Delivery, now time.Time) (store.Event, error) {
	var sum Summary
	var es []entry
	cause := ""
	for _, d := range g {
		var c Changed
		if err := json.Unmarshal(d.Event.Data, &c); err != nil {
			return store.Event{}, fmt.Errorf("event %s: %w", d.Event.ID, err)
		}
		weight := 0
		if c.Outcome == pratique.OutcomeDeny {
			sum.Refused++
			weight = 1
		} else {
			sum.Admitted++
		}
		if c.Pulled != nil {
			weight += len(c.Pulled.Clients) + c.Pulled.More
		}
		cause = c.Cause
		es = append(es, entry{c.Text, weight})
		sum.Events = append(sum.Events, d.Event.ID)
	}
	sum.Examples = examples(es)
	sum.Text = first(fmt.Sprintf("%s: %d images are refused now that were served, %d are served again. `pratique images` lists all.", causeWords(cause), sum.Refused, sum.Admitted), sum.Examples)
	return sumUp(TypeSummary, g, sum.Events, now, sum)
}

func summariseScans(g []store.Delivery, now time.Time) (store.Event, error) {
	sum := Scans{Images: len(g), Findings: map[pratique.ChangeKind]int{}}
	var es []entry
	cause := ""
	for _, d := range g {
		var c Scanned
		if err := json.Unmarshal(d.Event.Data, &c); err != nil {
			return store.Event{}, fmt.Errorf("event %s: %w", d.Event.ID, err)
		}
		weight := c.Findings.Critical*100 + c.Findings.High
		if c.Changes != nil {
			for kind, n := range c.Changes.Kinds {
				sum.Findings[kind] += n
			}
			weight = c.Changes.Kinds[pratique.ChangeAppeared]
		}
		cause = c.Cause
		es = append(es, entry{c.Text, weight})
		sum.Events = append(sum.Events, d.Event.ID)
	}
	sum.Examples = examples(es)
	text := fmt.Sprintf("%d images were scanned.", sum.Images)
	if cause == causeDatabase {
		text = fmt.Sprintf("%s: %d images have other findings: %s.", causeWords(cause), sum.Images, kindWords(sum.Findings))
	}
	sum.Text = first(text, sum.Examples)
	return sumUp(TypeScans, g, sum.Events, now, sum)
}

// kindWords tells how findings changed.
func kindWords(kinds map[pratique.ChangeKind]int) string {
	words := map[pratique.ChangeKind]string{
		pratique.ChangeAppeared: "appeared", pratique.ChangeGone: "are gone", pratique.ChangeSeverity: "have another severity",
		pratique.ChangeFixed: "another fixed version", pratique.ChangeStatus: "another status",
	}
	var out []string
	for _, kind := range []pratique.ChangeKind{pratique.ChangeAppeared, pratique.ChangeGone, pratique.ChangeSeverity, pratique.ChangeFixed, pratique.ChangeStatus} {
		if n := kinds[kind]; n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, words[kind]))
		}
	}
	if len(out) == 0 {
		return "no finding changed"
	}
	return strings.Join(out, ", ")
}
