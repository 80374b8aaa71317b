package store

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Dumper is a backend whose state can be taken out and put into another one, of
// any kind. Nobody else may use the state meanwhile, on either side.
//
// What is derived (indexes, joins, sorted sets) is in no record: Load makes it.
type Dumper interface {
	// Dump yields the records of a kind whose place is after that of the record with
	// the key after ("": all), always in the same order: the backend's own, unless the
	// kind has one (see Kinds). Where the order is not that of keys, an after that is
	// not there is an error. It holds no lock while the caller's loop body runs. An
	// error ends the sequence. What is not there is no record: an empty state has none.
	Dump(ctx context.Context, kind Kind, after string) iter.Seq2[Record, error]
	// Load stores records of a kind, in place of what is stored under their keys, and
	// whatever follows from them. It is idempotent: after a crash in the middle the
	// same records may be loaded again. Records of kinds that come before in Kinds are
	// there; those that are named and are not there are ErrInvalid.
	Load(ctx context.Context, kind Kind, rs []Record) error
}

// Record is one piece of state.
type Record struct {
	Kind Kind   `json:"kind"`
	Key  string `json:"key"` // what it is replaced by, see Kinds
	// Doc is the kind's document as JSON: one of the Dumped… types.
	Doc json.RawMessage `json:"doc"`
}

// Kind of records.
type Kind string

// Kinds of records, with their key and the type of their document.
const (
	// KindImages: digest of a manifest; DumpedImage.
	KindImages Kind = "images"
	// KindTags: REGISTRY/REPO:TAG; DumpedTag.
	KindTags Kind = "tags"
	// KindRepositories: REGISTRY/REPO, of those with a tag list; DumpedRepository.
	KindRepositories Kind = "repositories"
	// KindInventories: DIGEST, a space, ANALYZER; DumpedInventory. The target may have
	// more of them: they are facts about bytes.
	KindInventories Kind = "inventories"
	// KindComponents: component id; pratique.Component.
	KindComponents Kind = "components"
	// KindChunks: hash of the content as package packed makes it, in hex; DumpedChunk.
	KindChunks Kind = "chunks"
	// KindFleet: "fleet", one record; DumpedFleet.
	KindFleet Kind = "fleet"
	// KindMatches: component id, of every component that was ever matched; DumpedMatch.
	KindMatches Kind = "matches"
	// KindScanned: digest of an image whose occurrences are known; DumpedScanned.
	KindScanned Kind = "scanned"
	// KindReports: digest of an image; DumpedReport.
	KindReports Kind = "reports"
	// KindServed: digest of a manifest; DumpedServed.
	KindServed Kind = "served"
	// KindPulls: a minute that had pulls, as Unix seconds (a multiple of 60); DumpedPulls.
	// In order of time.
	KindPulls Kind = "pulls"
	// KindVerdicts: id of a verdict; Judged.
	KindVerdicts Kind = "verdicts"
	// KindExceptions: id; pratique.Exception.
	KindExceptions Kind = "exceptions"
	// KindAttestations: digest of an image; pratique.Attestations.
	KindAttestations Kind = "attestations"
	// KindPushes: Push.Key; Push.
	KindPushes Kind = "pushes"
	// KindEvents: id; DumpedEvent. In the order in which they were appended: Load
	// appends those that are not there, and replaces the deliveries of those that are.
	KindEvents Kind = "events"
	// KindMarks: Mark.Key; Mark.
	KindMarks Kind = "marks"
	// KindJobs: digest of an image; DumpedJob.
	KindJobs Kind = "jobs"
	// KindQueue: "queue", one record, none if it would be empty; DumpedQueue.
	KindQueue Kind = "queue"
	// KindRuns: name of a schedule; DumpedRun.
	KindRuns Kind = "runs"
	// KindDatabases: kind of database; WantedDatabase.
	KindDatabases Kind = "databases"
)

// Kinds are all kinds, in the order in which they are loaded.
func Kinds() []Kind {
	return []Kind{
		KindImages, KindTags, KindRepositories,
		KindInventories, KindComponents, KindChunks, KindFleet, KindMatches, KindScanned, KindReports,
		KindServed, KindPulls, KindVerdicts, KindExceptions, KindAttestations, KindPushes, KindEvents, KindMarks,
		KindJobs, KindQueue, KindRuns, KindDatabases,
	}
}

// DumpedImage is a manifest and where it is linked.
type DumpedImage struct {
	Image pratique.Image `json:"image"` // with FirstSeen
	// In are the repositories that hold it (Registry and Repo), those that were
	// linked first in front where the backend knows.
	In []DumpedIn `json:"in"`
}

// DumpedIn is a repository.
type DumpedIn struct {
	Registry string `json:"registry"`
	Repo     string `json:"repo"`
}

// Ref is the repository's reference.
func (r DumpedIn) Ref() pratique.Ref { return pratique.Ref{Registry: r.Registry, Repo: r.Repo} }

// DumpedTag is a tag: what it names and all that it named.
type DumpedTag struct {
	DumpedIn
	Tag       string        `json:"tag"`
	Digest    digest.Digest `json:"digest,omitempty"` // empty: the upstream says that it is gone
	MediaType string        `json:"mediaType,omitempty"`
	Size      int64         `json:"size,omitempty"`
	CheckedAt time.Time     `json:"checkedAt,omitzero"`
	ChangedAt time.Time     `json:"changedAt,omitzero"`
	// Spans are what Lineage tells, one for each digest, in order of FirstAt.
	Spans []DumpedSpan `json:"spans,omitempty"`
}

// DumpedSpan is a digest that a tag names or named. Of the one that it names now,
// LastAt (that is CheckedAt) and LeftAt are zero.
type DumpedSpan struct {
	Digest  digest.Digest `json:"digest"`
	FirstAt time.Time     `json:"firstAt,omitzero"`
	LastAt  time.Time     `json:"lastAt,omitzero"`
	LeftAt  time.Time     `json:"leftAt,omitzero"`
}

// DumpedRepository is what Tags and Lineage know of tag lists.
type DumpedRepository struct {
	DumpedIn
	Tags      []string             `json:"tags"` // of the list kept now, in its order
	FetchedAt time.Time            `json:"fetchedAt,omitzero"`
	Seen      map[string]time.Time `json:"seen,omitempty"` // every tag that ever was in a list
}

// DumpedInventory is what analysis found.
type DumpedInventory struct {
	Digest    digest.Digest      `json:"digest"`
	Analyzer  string             `json:"analyzer"`
	Inventory pratique.Inventory `json:"inventory"`
}

// DumpedChunk is the occurrences of one layer in images, in their order; Layer of
// each is that of the chunk.
type DumpedChunk struct {
	Layer       digest.Digest         `json:"layer,omitempty"`
	Occurrences []pratique.Occurrence `json:"occurrences"`
}

// DumpedFleet is which engines were begun.
type DumpedFleet struct {
	// Begun are in order of Begin, with their numbers, which only grow.
	Begun []DumpedEngine `json:"begun"`
	// Current is the number of the engine that everything is current with, since At;
	// 0: Advance was never called.
	Current int64     `json:"current,omitempty"`
	At      time.Time `json:"at,omitzero"`
}

// DumpedEngine is an engine (Version, Database, DatabaseAt) with its number.
type DumpedEngine struct {
	Seq    int64           `json:"seq"`
	Engine pratique.Engine `json:"engine"`
}

// DumpedMatch is what databases said of a component.
type DumpedMatch struct {
	Engine int64     `json:"engine,omitempty"` // number of the one that it was matched with last; 0: not known
	First  time.Time `json:"first,omitzero"`   // History.First
	Tracks []Track   `json:"tracks,omitempty"` // History.Tracks
}

// DumpedScanned is which occurrences an image has.
type DumpedScanned struct {
	Latest   DumpedRoster  `json:"latest"`             // what PutImage brought last
	Standing *DumpedRoster `json:"standing,omitempty"` // what is in force, once a report brought it
}

// DumpedRoster is the occurrences of an image as chunks.
type DumpedRoster struct {
	Chunks []DumpedListed `json:"chunks,omitempty"`
	// Runs are how the chunks interleave: index of a chunk and a number of
	// occurrences, in order; nil when the chunks follow one another.
	Runs [][2]int `json:"runs,omitempty"`
}

// DumpedListed is a chunk in an image.
type DumpedListed struct {
	Chunk string    `json:"chunk"`          // key of its record
	Since time.Time `json:"since,omitzero"` // when it came into force
}

// DumpedReport is what is stored of a report: Findings are those of content with
// their clocks, Changes are none.
type DumpedReport struct {
	Report pratique.Report `json:"report"`
	Past   []Past          `json:"past,omitempty"`
	Engine int64           `json:"engine,omitempty"` // number of the one it was put with; 0: it was not begun
}

// DumpedServed is what Pulls.Served tells.
type DumpedServed struct {
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// DumpedPulls are the pulls of a minute: Load removes those of that minute and
// stores these. They are in order of time; those of the same time in any.
type DumpedPulls struct {
	Pulls []Pull `json:"pulls"`
}

// DumpedEvent is an event with its deliveries, by sink.
type DumpedEvent struct {
	Event      Event            `json:"event"`
	Deliveries []DumpedDelivery `json:"deliveries,omitempty"`
}

// DumpedDelivery is a Delivery.
type DumpedDelivery struct {
	Sink      string        `json:"sink"`
	State     DeliveryState `json:"state,omitempty"`
	Attempts  int           `json:"attempts,omitempty"`
	NotBefore time.Time     `json:"notBefore,omitzero"`
	Settled   time.Time     `json:"settled,omitzero"`
	Error     string        `json:"error,omitempty"`
}

// DumpedJob is a job of the queue, without its lease: whoever held it is gone.
type DumpedJob struct {
	Ref       pratique.Ref `json:"ref"`
	Priority  int          `json:"priority"`
	Attempts  int          `json:"attempts,omitempty"`
	NotBefore time.Time    `json:"notBefore,omitzero"`
	Error     string       `json:"error,omitempty"`
	OpenedAt  time.Time    `json:"openedAt,omitzero"`
	Dead      bool         `json:"dead,omitempty"`
	DiedAt    time.Time    `json:"diedAt,omitzero"`
	// Turn and Seq are its place in the line of its priority: by Turn, then by Seq. A
	// backend may load them as other numbers in the same order.
	Turn int64 `json:"turn,omitempty"`
	Seq  int64 `json:"seq,omitempty"`
}

// DumpedQueue is what holds for the queue as a whole.
type DumpedQueue struct {
	Paused map[int]time.Time `json:"paused,omitempty"` // priorities, since when
	// Turns are how far priorities are: the greatest DumpedJob.Turn that was taken.
	Turns map[int]int64 `json:"turns,omitempty"`
}

// DumpedRun is the run of a schedule.
type DumpedRun struct {
	Spec       string    `json:"spec"`
	Base       time.Time `json:"base,omitzero"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	EndedAt    time.Time `json:"endedAt,omitzero"`
	Unfinished int       `json:"unfinished,omitempty"`
	Outcome    string    `json:"outcome,omitempty"`
	Note       string    `json:"note,omitempty"`
}

// NewRecord makes a record of a document.
func NewRecord(kind Kind, key string, doc any) (Record, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return Record{}, fmt.Errorf("%s %s: %w", kind, key, err)
	}
	return Record{Kind: kind, Key: key, Doc: b}, nil
}

// Dumped reads the documents of records, in their order.
func Dumped[T any](rs []Record) ([]T, error) {
	out := make([]T, len(rs))
	for i, r := range rs {
		if err := json.Unmarshal(r.Doc, &out[i]); err != nil {
			return nil, fmt.Errorf("%w %s %s: %w", pratique.ErrInvalid, r.Kind, r.Key, err)
		}
	}
	return out, nil
}

// MinuteOf is the key of KindPulls under which a pull is.
func MinuteOf(at time.Time) int64 {
	s := at.Unix()
	return s - ((s%60)+60)%60
}
