package proxy

import (
	"net/netip"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

const (
	// verdictMemoryLimit bounds, roughly and in bytes, the verdicts kept.
	verdictMemoryLimit = 8 << 20
	// verdictLife bounds how long a verdict is given again, whatever says that it
	// still stands. It is a second net: no rule relies on it.
	verdictLife = time.Minute
)

// versioned is what Policies need for verdicts to be remembered: a word that
// changes with everything, besides the facts, that a verdict depends on, and
// that stands in the verdict as its Policy. Both come from one set, so that a
// verdict is never filed under a version that did not make it.
type versioned interface{ Version() string }

// clientless are Policies that can say whether a verdict may depend on who asks.
type clientless interface{ ReadsClient() bool }

// verdicts is a bounded memory of decisions on single manifests. One is given
// again only if deciding anew would read the same facts: the same manifest
// under the same name for the same client, the same report and evidence (by
// their stamps, taken before they were read), the same policies, and a time
// before the verdict's Until. A nil *verdicts remembers nothing.
type verdicts struct {
	stamps   store.Stamper
	evidence Evidence // may be nil
	policies versioned
	byClient bool
	now      func() time.Time
	reach    *reach
	// lastFor is how old the report behind a verdict may be that is given again while
	// the state is away; 0 gives none.
	lastFor  time.Duration
	entries  *lru[verdictKey, verdictEntry]
	vouchers *lru[pratique.Ref, voucherEntry]
	metrics  *gateMetrics
}

// verdictKey holds all of policy.Facts that a client may vary.
type verdictKey struct {
	ref    pratique.Ref
	client netip.Addr // zero unless the policies read it
}

type verdictEntry struct {
	verdict   pratique.Verdict
	stamp     uint64
	decidedAt time.Time
	// since is when the report was made, or the decision if that was earlier: a clock
	// somewhere may go ahead.
	since time.Time
}

// overdue reports whether time has run out for a verdict. While the state is away
// nothing tells what changed, so that the report counts and not the decision.
func (e *verdictEntry) overdue(now time.Time, away bool, lastFor time.Duration) bool {
	// What passed since then passed, whatever somebody set the clock to.
	if later := e.decidedAt.Round(0).Add(now.Sub(e.decidedAt)); later.After(now.Round(0)) {
		now = later
	}
	switch {
	case now.Before(e.decidedAt):
		return true // a clock that went back is no reason to trust an old verdict
	case !e.verdict.Until.IsZero() && !now.Before(e.verdict.Until):
		return true
	case away:
		return now.Sub(e.since) >= lastFor
	}
	return now.Sub(e.decidedAt) >= verdictLife
}

// voucherEntry is the manifest that let a blob through last.
type voucherEntry struct {
	holder pratique.Image
	stamp  uint64 // of the blob: while it is the same, so are its holders
}

// newVerdicts returns nil when there is no telling whether a verdict stands.
func newVerdicts(cfg GateConfig, policies Policies, state *reach, metrics *gateMetrics) *verdicts {
	p, ok := policies.(versioned)
	if cfg.Stamps == nil || !ok {
		return nil
	}
	lastFor := cfg.FailureAge
	if cfg.Failure != FailureServeLast {
		lastFor = 0
	}
	byClient := true
	if c, ok := policies.(clientless); ok {
		byClient = c.ReadsClient()
	}
	return &verdicts{
		stamps: cfg.Stamps, evidence: cfg.Evidence, policies: p, byClient: byClient, now: cfg.Now, metrics: metrics,
		reach: state, lastFor: lastFor,
		entries:  newLRU[verdictKey](verdictMemoryLimit, func(e verdictEntry) int64 { return weighVerdict(e.verdict) }),
		vouchers: newLRU[pratique.Ref](verdictMemoryLimit, func(e voucherEntry) int64 { return weigh(e.holder) + entryWeight }),
	}
}

// weighVerdict is about the memory of a verdict; findings are its bulk.
func weighVerdict(v pratique.Verdict) int64 {
	n := int64(entryWeight)
	for i := range v.Reasons {
		n += 256 + int64(len(v.Reasons[i].Findings))*800
	}
	return n
}

// stamp of all that a verdict on an image depends on: to be taken before its
// report is read. Both of its parts only ever grow, and so does their sum.
func (m *verdicts) stamp(image digest.Digest) uint64 {
	if m == nil {
		return 0
	}
	n := m.stamps.Stamp(image)
	if m.evidence != nil {
		n += m.evidence.Stamp()
	}
	return n
}

// content is the stamp of a blob: of which manifests name it.
func (m *verdicts) content(d digest.Digest) uint64 {
	if m == nil {
		return 0
	}
	return m.stamps.Stamp(d)
}

func (m *verdicts) key(ref pratique.Ref, image digest.Digest, client netip.Addr) verdictKey {
	k := verdictKey{ref: ref.At(image)}
	if m.byClient {
		k.client = client
	}
	return k
}

// recall returns the verdict on an image if it still stands. It does not
// allocate.
func (m *verdicts) recall(ref pratique.Ref, image digest.Digest, client netip.Addr) (pratique.Verdict, bool) {
	if m == nil {
		return pratique.Verdict{}, false
	}
	e, ok := m.entries.get(m.key(ref, image, client))
	if !ok || e.stamp != m.stamp(image) || e.verdict.Policy != m.policies.Version() {
		return pratique.Verdict{}, false
	}
	away := m.reach.away()
	if e.overdue(m.now(), away, m.lastFor) {
		return pratique.Verdict{}, false
	}
	m.metrics.recalled.Inc()
	if away {
		m.metrics.last.Inc()
	}
	return e.verdict, true
}

// has tells whether there is any verdict to recall, standing or not.
func (m *verdicts) has(ref pratique.Ref, image digest.Digest, client netip.Addr) bool {
	if m == nil {
		return false
	}
	_, ok := m.entries.get(m.key(ref, image, client))
	return ok
}

// keep remembers a verdict made at decidedAt from the report read after stamp.
// A failed report is looked at each time: a scan may have to be opened anew.
func (m *verdicts) keep(ref pratique.Ref, client netip.Addr, r pratique.Report, v pratique.Verdict, stamp uint64, decidedAt time.Time) {
	if m == nil || v.Policy == "" {
		return
	}
	switch r.State {
	case pratique.StateScanned, pratique.StateIncomplete, pratique.StateUnsupported:
		since := decidedAt
		if !r.ScannedAt.IsZero() && r.ScannedAt.Before(since) {
			since = r.ScannedAt
		}
		m.entries.put(m.key(ref, r.Image, client), verdictEntry{v, stamp, decidedAt, since})
	default:
	}
}

// vouch remembers which manifest let a blob of ref's repository through; stamp
// is the blob's, from before its holders were read.
func (m *verdicts) vouch(ref pratique.Ref, holder pratique.Image, stamp uint64) {
	if m != nil && holder.Kind != pratique.KindIndex {
		m.vouchers.put(contentKey(ref, ref.Digest), voucherEntry{holder, stamp})
	}
}

// vouched returns a decision that lets the blob through, if the manifest that
// did so last still may: the same holders, and a verdict on one of them that
// serves, are all that a decision anew would find.
func (m *verdicts) vouched(ref pratique.Ref, client netip.Addr) (pratique.Decision, bool) {
	if m == nil {
		return pratique.Decision{}, false
	}
	e, ok := m.vouchers.get(contentKey(ref, ref.Digest))
	if !ok || e.stamp != m.stamps.Stamp(ref.Digest) && !m.lasting(e) {
		return pratique.Decision{}, false
	}
	at := ref.At(e.holder.Digest)
	v, ok := m.recall(at, e.holder.Digest, client)
	if !ok || !serves(v) {
		return pratique.Decision{}, false
	}
	return pratique.Decision{Ref: at, Image: e.holder, Verdict: v}, true
}

// lasting reports whether who let a blob through is asked again though the blob's
// holders may be others by now: while the state is away nobody can say, and another
// image that shares the layer takes nothing away from this one. An artifact must not
// vouch where an image may have come to.
func (m *verdicts) lasting(e voucherEntry) bool {
	return m.lastFor > 0 && e.holder.Runnable() && m.reach.away()
}
