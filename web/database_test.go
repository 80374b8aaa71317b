package web_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"pratique"
	"pratique/web"
)

func TestDatabaseRollback(t *testing.T) {
	for _, tc := range []struct {
		name, query string
		fail        error
		status      int
		body        string
		undo        bool
	}{
		{"back", "", nil, 200, `"digest":"sha256:`, false},
		{"and forth", "?undo=true", nil, 200, `"digest":"sha256:`, true},
		{"nonsense", "?undo=maybe", nil, 400, "undo is not true or false", false},
		{"nowhere to go", "", fmt.Errorf("%w: no previous database is kept", pratique.ErrNotFound), 409, `"error":"no previous database is kept"`, false},
		{"damaged", "", fmt.Errorf("%w: it reads as another", pratique.ErrInvalid), 422, "the database in use stays", false},
		{"the disk", "", io.ErrUnexpectedEOF, 500, "log has the details", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			db := &fakeDatabase{content: "x", fail: tc.fail}
			srv := serve(t, web.Config{Database: db})
			status, body := ask(t, "POST", srv.URL+"/api/v1/database/rollback"+tc.query, "")
			if status != tc.status || !strings.Contains(body, tc.body) || db.undo != tc.undo {
				t.Errorf("%d, undo %t: %s", status, db.undo, body)
			}
		})
	}
}

// TestDatabaseExport: what breaks off is cut, never ended by an error document.
func TestDatabaseExport(t *testing.T) {
	db := &fakeDatabase{content: strings.Repeat("x", 1<<16)}
	srv := serve(t, web.Config{Database: db})
	res, err := http.Get(srv.URL + "/api/v1/database/export?which=current")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil || string(body) != db.content || res.Header.Get(web.DatabaseHeader) != digestOf(db.content).String() {
		t.Errorf("%d bytes, %v, %v", len(body), err, res.Header)
	}
	if status, body := ask(t, "GET", srv.URL+"/api/v1/database/export?which=previous", ""); status != 404 || !strings.Contains(body, `"error":"there is no previous database"`) {
		t.Errorf("%d: %s", status, body)
	}
	db.fail = errors.New("input/output error")
	res, err = http.Get(srv.URL + "/api/v1/database/export")
	if err != nil {
		return // cut before the header left
	}
	if body, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("an export that broke off ends like a whole one: %d, %.80s", len(body), body)
	}
	_ = res.Body.Close()
}

func TestDatabaseDiff(t *testing.T) {
	db := &fakeDatabase{content: "x"}
	srv := serve(t, web.Config{Database: db})
	if status, body := ask(t, "GET", srv.URL+"/api/v1/database/diff?old=previous&new=current", ""); status != 200 || body != `{"new":"current","old":"previous"}`+"\n" {
		t.Errorf("%d: %s", status, body)
	}
	db.fail = fmt.Errorf("%w: there is no previous database", pratique.ErrNotFound)
	if status, body := ask(t, "GET", srv.URL+"/api/v1/database/diff?old=previous&new=current", ""); status != 404 || !strings.Contains(body, "db status") {
		t.Errorf("%d: %s", status, body)
	}
}
