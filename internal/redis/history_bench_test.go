package redis

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// historyBatch is about what a replica under load writes down at once.
const historyBatch = 500

// history records n images' first pull of a day, and then each again by ten nodes.
func (s *scaleBench) history(n int) {
	ctx := s.b.Context()
	record := func(times, atOnce int) func() error {
		return func() error {
			var batch []store.Pull
			for i := range n * times {
				image := s.random.IntN(n)
				if times == 1 {
					image = i
				}
				batch = append(batch, store.Pull{
					Ref:    pratique.Ref{Registry: "docker.io", Repo: fmt.Sprint("team/app", image/100), Tag: fmt.Sprint("v", image), Digest: digest.FromString(fmt.Sprint("image", image))},
					Client: fmt.Sprintf("10.1.%d.%d", i/250%4, i%250), At: testTime.Add(time.Duration(i) * time.Millisecond), Outcome: pratique.OutcomeAllow, Verdict: fmt.Sprintf("v-%08x", image),
				})
				if len(batch) == atOnce || i == n*times-1 {
					if err := s.db.Record(ctx, batch); err != nil {
						return err
					}
					batch = batch[:0]
				}
			}
			return nil
		}
	}
	s.row("pull, the first of an image on a day, 500 at once", n, record(1, historyBatch))
	s.row("pull, another of it, 500 at once", 10*n, record(10, historyBatch))
	s.row("pull, another of it, written alone", 2*n, record(2, 1))
	s.row("verdict that somebody met", n, func() error {
		for i := range n {
			ref := pratique.Ref{Registry: "docker.io", Repo: fmt.Sprint("team/app", i/100), Tag: fmt.Sprint("v", i), Digest: digest.FromString(fmt.Sprint("image", i))}
			v := pratique.Verdict{ID: fmt.Sprintf("v-%08x", i), Outcome: pratique.OutcomeAllow, Policy: "0123456789ab"}
			if err := s.db.RecordVerdicts(ctx, []store.Judged{{Ref: ref, Client: "10.1.2.3", At: testTime, Verdict: v}}); err != nil {
				return err
			}
		}
		return nil
	})
	s.row("exception", n/10, func() error {
		for i := range n / 10 {
			if err := s.db.CreateException(ctx, pratique.Exception{
				ID: fmt.Sprintf("ex-%08x", i), Finding: fmt.Sprint("CVE-2026-", 1000+i), Repository: fmt.Sprint("docker.io/team/app", i), Author: "somebody@example.org", Source: "api",
				Reason: "not reachable: the function is never called with a file from outside", Ticket: "SEC-1234", Created: testTime, Expires: testTime.AddDate(0, 3, 0),
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// outbox notes n images as a watcher does, and appends and delivers an event of each.
func (s *scaleBench) outbox(n int) {
	ctx := s.b.Context()
	s.row("image noted by the watcher", n, func() error {
		for i := range n {
			// What notify notes of an image that is allowed and has findings.
			doc := fmt.Sprintf(`{"outcome":"allow","verdict":"v-%08x","policy":"0123456789ab","database":%q,"scanned":"2026-11-23T10:00:00Z","at":"2026-11-23T10:00:00Z","found":"%016x","foundAt":"2026-11-23T10:00:00Z","seen":"2026-11-23T10:00:00Z","seenN":17}`, i, digest.FromString("db"), i)
			if err := s.db.Append(ctx, nil, []store.Mark{{Key: "image/" + digest.FromString(fmt.Sprint("image", i)).String(), Doc: []byte(doc)}}); err != nil {
				return err
			}
		}
		return nil
	})
	s.row("event with one sink, open, 1 KiB", n, func() error {
		for i := range n {
			image := digest.FromString(fmt.Sprint("image", i))
			subject := fmt.Sprint("docker.io/team/app", i/100, "@", image)
			data, err := json.Marshal(strings.Repeat(fmt.Sprint("CVE-2026-", i, " in a package; "), 24))
			if err != nil {
				return err
			}
			e := store.Event{ID: fmt.Sprintf("%032x", i), Type: "verdict.changed", At: testTime, Subject: subject, Order: image.String(), Repository: fmt.Sprint("docker.io/team/app", i/100), Cause: "database@" + digest.FromString("db").String(), Data: data}
			if err := s.db.Append(ctx, []store.Addressed{{Event: e, Sinks: []string{"siem"}}}, nil); err != nil {
				return err
			}
		}
		return nil
	})
	s.row("event delivered, and kept for a while", n, func() error {
		for done := 0; done < n; {
			ds, err := s.db.Pending(ctx, "siem", testTime.Add(time.Hour), 100)
			if err != nil {
				return err
			}
			if len(ds) == 0 {
				return fmt.Errorf("%d of %d events are pending", done, n)
			}
			for i := range ds {
				ds[i].State, ds[i].Settled = store.DeliveryDone, testTime.Add(time.Hour)
				if err := s.db.Settle(ctx, ds[i:i+1]); err != nil {
					return err
				}
			}
			done += len(ds)
		}
		return nil
	})
}
