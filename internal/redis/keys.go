package redis

import (
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// layout is in every key: two layouts are two states that know nothing of each
// other (`pratique migrate` would move between them).
const layout = 1

// schema is the version of what this release writes, within the layout: schema.go. A
// state of each that was released is in testdata, and is never written anew.
const schema = 1

// partitions is how many parts the state has. Keys of one part share a hash tag,
// so that they are in one slot of a cluster and scripts may change them together;
// nothing is ever changed in two parts at once. It is fixed by the schema.
const partitions = 64

// A key is PREFIX:LAYOUT:{PART}:NAME. PART is two digits of a partition, or a word
// for what is one for all. All keys live until they are removed by their owner,
// unless a lifetime is given here.
//
//	part     name              type    owner        holds
//	00…63    version           string  changes.go   counts writes that stamps tell of
//	schema   schema            hash    schema.go    version, and oldest that may write
//	lease    NAME              string  lease.go     holder's token; expires with the lease
//	00…63    served            hash    pulls.go     first and last time served (20 digits each), by digest
//	00…63    pulls.HOUR        list    pulls.go     pulls of an hour since 1970 (pulls_packed.go); history.retention
//	00…63    pulls.hours       set     pulls.go     hours that have pulls
//	00…63    asked.DAY         hash    pulls.go     number of what was asked on a day, by its text; goes with its last hour
//	00…63    verdicts          hash    pulls_forget.go  verdicts that people may ask about, by id; as long as a pull names them
//	00…63    verdicts.at       zset    pulls_forget.go  their ids by microseconds
//	00…63    attestations      hash    attestations.go  what was verified, by digest
//	31       exceptions        hash    exceptions.go  exceptions by id, for ever
//	pushes   pushes            hash    pushes.go    open pushes by Push.Key, until they are closed
//	pushes   pushes.at         zset    pushes.go    them by time
//	00…63    images            hash    catalog.go   a manifest's document, by digest (short); for ever, as all of these:
//	00…63    firsts            hash    catalog.go   when it was first seen (8 bytes) and whether it is an index (x), by digest
//	00…63    places            hash    catalog_link.go  repositories that hold it or will (links tell), by digest
//	00…63    parents           hash    lineage_graph.go  indexes that list a digest, by digest (luaLists)
//	00…63    trails            hash    tags.go      repositories whose tags named a digest or will (naming tells), by digest
//	00…63    named             hash    links.go     1, or claims of links on their way, by blob
//	00…63    discard:BLOB      string  links.go     token of who removes it; discardLife
//	00…63    nexts             hash    lineage_graph.go  chains with one layer more, by chain of layers (luaLists)
//	00…63    ends              hash    lineage_graph.go  images that are a chain, by chain (luaLists)
//	00…63    repositories      set     catalog_link.go  REGISTRY/REPO that hold something or have tags
//	00…63    links:REPO        hash    catalog_link.go  number of a manifest in its repository, by digest
//	00…63    linked:REPO       hash    catalog_link.go  digest by number, and the last number
//	00…63    holders:REPO      hash    catalog_link.go  numbers of manifests that name a blob, by blob (luaLists)
//	00…63    tags:REPO         hash    tags.go      what a tag names, by tag (luaTags)
//	00…63    spans:REPO        hash    tags.go      since and until when, by digest and tag
//	00…63    history:REPO      hash    tags.go      digests that a tag names or named, by tag
//	00…63    naming:REPO       hash    tags.go      tags that name or named it, by digest
//	00…63    moves             zset    tags.go      spans that were left, by microseconds
//	00…63    lists             hash    tags.go      the last tag list, by repository
//	00…63    seen:REPO         hash    tags.go      since when a tag is in lists, by tag
//	outbox   events            hash    outbox.go    events by id; until they are told, then notify's KeepDone or KeepAll
//	outbox   events.meta       hash    outbox.go    their deliveries, and what scripts need of them (scripts.go)
//	outbox   events.seq        zset    outbox.go    their ids by number, in the order of Append
//	outbox   events.at         zset    outbox.go    their ids by time
//	outbox   events.causes     zset    outbox.go    their ids by cause and number
//	outbox   events.line       zset    outbox.go    open deliveries by sink, order and number
//	outbox   events.ready      zset    outbox.go    the first of each order that may be sent, by sink and number
//	outbox   events.later      zset    outbox.go    the first of each order that waits, by sink and time
//	outbox   events.dead       zset    outbox.go    deliveries given up, by sink and number
//	outbox   events.sinks      set     outbox.go    names of sinks that had an event, for ever
//	outbox   events.number     string  outbox.go    the last number given to an event
//	outbox   marks             hash    outbox_marks.go  what the watcher noted, by key: due and document, for ever
//	outbox   marks.due         zset    outbox_marks.go  them by when to look again
//	queue    jobs              hash    queue.go     a job by digest, open or dead (scripts.go)
//	queue    jobs.open         zset    queue.go     open jobs in the order of lists
//	queue    jobs.ready        zset    queue.go     those that may be taken, in their order
//	queue    jobs.later        zset    queue.go     those that wait for a time
//	queue    jobs.held         zset    queue.go     those that are leased, by the lease's end
//	queue    jobs.line         zset    queue.go     open jobs by repository and turn
//	queue    jobs.dead         zset    queue.go     those given up; Config.KeepDead of scheduler
//	queue    jobs.turns        hash    queue.go     the last turn by priority, and the last number
//	queue    jobs.paused       hash    queue_jobs.go  since when, by priority
//	queue    jobs.tokens       hash    queue.go     digest by token of a lease
//	queue    alive             zset    queue_alive.go  processes, by when they count as dead
//	queue    heard             hash    queue_alive.go  the clock of alive
//	queue    runs              hash    runs.go      the last run of a schedule, by name
//	00…63    components        hash    components.go  a component, by its hash
//	00…63    keys              hash    fleet_components.go  list of components by hash of one of their keys; they stay
//	00…63    matches           hash    matches.go   what was ever said of a component, by its hash
//	00…63    vulnerabilities   hash    fleet_components.go  list of components by hash of a vulnerability's id; they stay
//	00…63    untold            hash    fleet_tell.go  word that stamps have to move for a component; until they did
//	00…63    strays.NUMBER     set     fleet.go     components that this engine was not current with; until a later one is current
//	00…63    fence             string  fleet.go     number of the latest engine
//	00…63    chunks            hash    components.go  occurrences of a layer, by hash; until no image has it
//	00…63    chunk.images.HASH hash    components.go  images that have a chunk, short, by the number it is linked under
//	00…63    components.chunks hash    components.go  list of chunks by component; they stay
//	00…63    scanned           hash    components.go  which chunks an image has, by digest (short)
//	00…63    reports           hash    reports.go   what is stored of a report, by digest (short)
//	fleet    engines           hash    fleet.go     the latest engine and the current one (scripts.go)
//	fleet    engines.begun     hash    fleet.go     an engine's last number
//	fleet    engines.order     hash    fleet.go     an engine by number: all that were begun
//	fleet    wanted.KIND       hash    wanted.go    version, database (digest), doc: what all replicas are to use
//
// Partitions are of: a digest (image, blob, component: its first byte), a
// repository (REGISTRY/REPO), else a hash of the name.

// part is the name of a partition as it stands in keys.
type part string

// partOf is the partition of a name that is neither digest nor component.
func partOf(name string) part {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return partNumber(int(h.Sum32() % partitions))
}

// partNumber is the partition with a number.
func partNumber(n int) part {
	if n < 10 {
		return part("0" + strconv.Itoa(n))
	}
	return part(strconv.Itoa(n))
}

// partOfDigest is the partition of an image or blob. Partitions are in order of
// digest: what is read partition by partition is sorted.
func partOfDigest(d digest.Digest) part {
	_, hex, ok := strings.Cut(string(d), ":")
	if !ok {
		return partOf(string(d))
	}
	return partOfHex(hex)
}

func partOfHex(hex string) part {
	if len(hex) >= 2 {
		if n, err := strconv.ParseUint(hex[:2], 16, 8); err == nil {
			return partNumber(int(n) / (256 / partitions)) //nolint:gosec // a byte
		}
	}
	return partOf(hex)
}

// partOfRepo is the partition of a repository.
func partOfRepo(ref pratique.Ref) part { return partOf(ref.Repository()) }

// key is one key.
func (db *DB) key(p part, name string) string {
	return db.prefix + "{" + string(p) + "}:" + name
}

// channel is one channel of messages between processes.
func (db *DB) channel(name string) string { return db.prefix + name }
