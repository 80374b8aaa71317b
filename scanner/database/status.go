package database

import (
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
)

// Status is what an operator wants to know of a database.
type Status struct {
	Kind         string        `json:"kind"`             // vulnerability, java
	Digest       digest.Digest `json:"digest,omitempty"` // empty: none adopted yet
	Previous     digest.Digest `json:"previous,omitempty"`
	UpdatedAt    time.Time     `json:"updatedAt,omitzero"`
	NextUpdate   time.Time     `json:"nextUpdate,omitzero"`
	DownloadedAt time.Time     `json:"downloadedAt,omitzero"`
	Source       string        `json:"source,omitempty"`
	Counts       Counts        `json:"counts,omitzero"`
	Age          time.Duration `json:"age,omitempty"`       // since UpdatedAt, nanoseconds
	LastCheck    time.Time     `json:"lastCheck,omitzero"`  // of path or sources
	NextCheck    time.Time     `json:"nextCheck,omitzero"`  // while Run runs
	LastError    string        `json:"lastError,omitempty"` // of the last check or import; empty after a success
	// RolledBack is the database that an operator rolled back from, with the time of
	// that; no source brings it back.
	RolledBack   digest.Digest  `json:"rolledBack,omitempty"`
	RolledBackAt time.Time      `json:"rolledBackAt,omitzero"`
	Sources      []SourceStatus `json:"sources,omitempty"` // in order of preference
	// Together is how this replica stands among those that share a database; nil when
	// it is alone.
	Together *TogetherStatus `json:"together,omitempty"`
}

// TogetherStatus is how a replica stands among those that share a database.
type TogetherStatus struct {
	Role      string        `json:"role"`             // leader: it asks the sources; follower
	Replica   string        `json:"replica"`          // its name
	Wanted    digest.Digest `json:"wanted,omitempty"` // what all are to use; empty: nothing yet, or not known
	Sequence  int64         `json:"sequence,omitempty"`
	Cause     string        `json:"cause,omitempty"` // kept, source, import, rollback, undo
	By        string        `json:"by,omitempty"`    // the replica that said so
	At        time.Time     `json:"at,omitzero"`     // when, by its clock
	Lag       time.Duration `json:"lag,omitempty"`   // for how long something else is wanted than is used here
	LastError string        `json:"lastError,omitempty"`
}

// Roles of replicas.
const (
	RoleLeader   = "leader"
	RoleFollower = "follower"
)

// status needs Database.mu.
func (t *together) status(d *Database) *TogetherStatus {
	if d.cfg.Shared == nil {
		return nil
	}
	s := &TogetherStatus{Role: RoleFollower, Replica: d.cfg.Replica}
	if t.leading {
		s.Role = RoleLeader
	}
	if w := t.wanted; w != nil {
		s.Wanted, s.Sequence, s.Cause, s.By, s.At = w.Current.Digest, w.Sequence, w.Cause, w.By, w.At
	}
	if !t.behind.IsZero() {
		s.Lag = d.cfg.Now().Sub(t.behind)
	}
	if t.failing != nil {
		s.LastError = t.failing.Error()
	}
	return s
}

// Status reports the adopted database and the last attempt to renew it.
func (d *Database) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Status{Kind: d.kind.name, Previous: d.previous, LastCheck: d.lastCheck, NextCheck: d.nextCheck}
	if d.lastError != nil {
		s.LastError = d.lastError.Error()
	}
	if c := d.current; c != nil {
		s.Digest, s.UpdatedAt, s.NextUpdate = c.Digest, c.UpdatedAt, c.NextUpdate
		s.DownloadedAt, s.Source, s.Counts = c.DownloadedAt, c.Source, c.Counts
		s.Age = d.cfg.Now().Sub(c.UpdatedAt)
	}
	if n := len(d.rolledBack); n > 0 {
		s.RolledBack, s.RolledBackAt = d.rolledBack[n-1].Digest, d.rolledBack[n-1].At
	}
	s.Sources = d.sourceStatus()
	s.Together = d.together.status(d)
	return s
}

func (d *Database) standing() *record {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current
}

// pointer is what the shelf should say of what is adopted now.
func (d *Database) pointer() pointer {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := pointer{Previous: d.previous, RolledBack: d.rolledBack}
	if d.current != nil {
		p.Current = d.current.Digest
	}
	return p
}

func (d *Database) set(r *record, previous digest.Digest, back rollbacks) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current, d.previous, d.rolledBack = r, previous, back
	clear(d.refused) // they were judged beside another
	d.lagged()
	select {
	case d.moved <- struct{}{}:
	default:
	}
}

// rename records under which name the standing content was offered last.
func (d *Database) rename(identity digest.Digest, source string) error {
	d.mu.Lock()
	next := *d.current
	next.Identity, next.Source = identity, source
	d.current = &next
	d.mu.Unlock()
	return d.keep.writeRecord(next)
}

// note keeps the outcome of an attempt for Status.
func (d *Database) note(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lastError = err
	if err != nil {
		d.metrics.failures.WithLabelValues(failureReason(err)).Inc()
	}
}

// age is the metric's value in seconds since UpdatedAt; 0 while there is no
// database, which readiness tells.
func (d *Database) age() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == nil {
		return 0
	}
	return d.cfg.Now().Sub(d.current.UpdatedAt).Seconds()
}

type metrics struct {
	adoptions prometheus.Counter
	failures  *prometheus.CounterVec
	refusals  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, kind string, age, lag func() float64) *metrics {
	labels := prometheus.Labels{"kind": kind}
	m := &metrics{
		adoptions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pratique_database_adoptions_total", Help: "Databases adopted since the start.", ConstLabels: labels,
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_database_failures_total", Help: "Checks and imports that failed, by reason; the standing database stayed.", ConstLabels: labels,
		}, []string{"reason"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_database_refusals_total", Help: "Databases that were fetched and not adopted, by reason.", ConstLabels: labels,
		}, []string{"reason"}),
	}
	if reg != nil {
		reg.MustRegister(m.adoptions, m.failures, m.refusals, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pratique_database_age_seconds", Help: "Age of the adopted database's content; 0 while there is none.", ConstLabels: labels,
		}, age), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pratique_database_lag_seconds", Help: "For how long all replicas are to use another database than this one does; 0 while it does, and when it is alone.", ConstLabels: labels,
		}, lag))
	}
	return m
}
