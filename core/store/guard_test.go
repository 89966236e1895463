package store

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Tables with a room_id whose rows any node may write: they are keyed by something else, or their writers are.
var unfenced = []string{"room", "key_package", "consent", "consent_out", "consent_event", "consent_wait", "delivery", "direct_room", "member", "abuse_report", "deletion_room"}

// TestGuards: where nodes share a database, a node changes only rooms it owns. So each table of rooms is known, and for each statement that
// changes one it is seen which room it is about, but for those that clean up.
func TestGuards(t *testing.T) {
	table := regexp.MustCompile(`(?s)CREATE TABLE (\w+) \((.*?)\n\)`)
	for _, m := range table.FindAllStringSubmatch(strings.Join(upgrades, "\n"), -1) {
		if regexp.MustCompile(`(?m)^\troom_id\s`).MatchString(m[2]) && fenced[m[1]] == slices.Contains(unfenced, m[1]) {
			t.Errorf("the table %s has a room_id: put it into fenced (node.go) if only the room's owner may write it, else into unfenced (here)", m[1])
		}
	}
	sweeping := []string{"TrimEvents", "TrimHistory", "TrimStray", "TrimViews", "CancelIntents", "EraseUser", "TrimLog", "ForgetAnswers", "ExpireRoutes", "TrimHubRooms", "GiveUpQueues", "reincarnate"}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || name == "schema.go" {
			continue
		}
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || slices.Contains(sweeping, fn.Name.Name) {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				q, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				if m := writes.FindStringSubmatch(q); m != nil && fenced[m[2]] {
					seen++
					if guardOf(q).param < 0 {
						t.Errorf("%s, %s: of this statement it cannot be seen which room it changes; write room_id=? or name it in VALUES, or add the function to sweeping (here) if it is for all rooms: %s", name, fn.Name.Name, q)
					}
				}
				return true
			})
		}
	}
	if seen < 30 {
		t.Errorf("only %d statements were found", seen)
	}
	for q, want := range map[string]guard{
		`INSERT INTO hub_log (room_id, seq, ts) VALUES (?, ?, ?)`:                              {0, false},
		`INSERT INTO message (message_id, room_id) VALUES (?, ?)`:                              {1, false},
		`UPDATE hub_room SET status=?, epoch=? WHERE room_id=?`:                                {2, false},
		`UPDATE client_count SET last_inbox=last_inbox+1 WHERE room_id=? RETURNING last_inbox`: {0, true},
		`INSERT INTO intent (room_id, seq) VALUES (?, ?)`:                                      {0, true},
		`UPDATE intent SET status=? WHERE room_id=? AND seq=?`:                                 {1, false},
		`DELETE FROM seen WHERE room_id=? AND epoch<?`:                                         {0, false},
		`SELECT state FROM hub_room WHERE room_id=?`:                                           {-1, false},
		`DELETE FROM node WHERE id=?`:                                                          {-1, false},
	} {
		if got := guardOf(q); got != want {
			t.Errorf("%s: %+v, not %+v", q, got, want)
		}
	}
}
