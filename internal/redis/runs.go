package redis

import (
	"context"
	"encoding/json"
	"fmt"

	"pratique/scheduler"
)

// runDoc is a run as it is kept; times are nanoseconds.
type runDoc struct {
	Spec       string `json:"spec"`
	Base       int64  `json:"base"`
	Started    int64  `json:"started"`
	Ended      int64  `json:"ended"`
	Unfinished int    `json:"unfinished"`
	Outcome    string `json:"outcome"`
	Note       string `json:"note"`
}

// PutRun implements scheduler.Runs.
func (db *DB) PutRun(ctx context.Context, r scheduler.Run) error {
	doc, err := json.Marshal(runDoc{r.Spec, nanos(r.Base), nanos(r.StartedAt), nanos(r.EndedAt), r.Unfinished, string(r.Outcome), r.Note})
	if err == nil {
		err = db.rdb.HSet(ctx, db.key(queuePart, "runs"), r.Name, doc).Err()
	}
	if err != nil {
		return fmt.Errorf("run of schedule %s: %w", r.Name, err)
	}
	return nil
}

// LastRuns implements scheduler.Runs.
func (db *DB) LastRuns(ctx context.Context) (map[string]scheduler.Run, error) {
	docs, err := db.rdb.HGetAll(ctx, db.key(queuePart, "runs")).Result()
	if err != nil {
		return nil, fmt.Errorf("runs of schedules: %w", err)
	}
	out := make(map[string]scheduler.Run, len(docs))
	for name, text := range docs {
		var d runDoc
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			return nil, fmt.Errorf("run of schedule %s: %w", name, err)
		}
		out[name] = scheduler.Run{
			Name: name, Spec: d.Spec, Base: at(d.Base), StartedAt: at(d.Started), EndedAt: at(d.Ended),
			Unfinished: d.Unfinished, Outcome: scheduler.Outcome(d.Outcome), Note: d.Note,
		}
	}
	return out, nil
}
