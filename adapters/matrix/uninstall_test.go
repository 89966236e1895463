package matrix

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// everything is what the adapter's database holds, a line for each row.
func (tw *twin) everything() (rows []string) {
	tw.t.Helper()
	ctx := context.Background()
	tables, err := list[string](ctx, tw.db, `SELECT name FROM sqlite_master WHERE type = 'table'`)
	if err != nil {
		tables, err = list[string](ctx, tw.db, `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()`)
	}
	if err != nil || len(tables) < 10 {
		tw.t.Fatal(tables, err)
	}
	for _, table := range tables {
		result, err := tw.db.Query(`SELECT * FROM ` + table)
		if err != nil {
			tw.t.Fatal(err)
		}
		columns, err := result.Columns()
		if err != nil {
			tw.t.Fatal(err)
		}
		for result.Next() {
			values, into := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				into[i] = &values[i]
			}
			if err := result.Scan(into...); err != nil {
				tw.t.Fatal(err)
			}
			line := table + ":"
			for i, v := range values {
				line += fmt.Sprintf(" %s=%s", columns[i], v)
			}
			rows = append(rows, line)
		}
		if err := result.Err(); err != nil {
			tw.t.Fatal(err)
		}
	}
	return rows
}

func about(rows []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(rows), func(row string) bool { return !strings.Contains(row, name) })
}

// TestErase: of a user who is deleted no table keeps anything, and of the others everything stays.
func TestErase(t *testing.T) {
	s := newService(t)
	room, mx := s.portal()
	b := s.a.(*Adapter).current.Load()
	s.tw.add(room, romeo, local("nurse"))
	// Something in each table: a room of her own, a message of hers, receipts, settings, what waits.
	own, err := b.management(s.ctx, id.UserID("@juliet:"+server))
	if err != nil {
		t.Fatal(err)
	}
	his := s.tw.send(room, romeo, content.Text("he jests"))
	s.tw.settled(s.ctx)
	hisEvent := s.stub.find(mx, "m.room.message")[0]["event_id"].(string)
	s.put(from(mx, "$hers", "m.room.message", map[string]any{"msgtype": "m.text", "body": "her word"}))
	s.tw.intent(s.ctx, "a message", sends("her word"))
	s.tw.settled(s.ctx)
	s.tw.setHold(true) // nobody lets the bridge into this room, so what is said there waits
	invite := from("!orchard:"+server, "$invite", "m.room.member", map[string]any{"membership": "invite"})
	invite["state_key"] = ghostOf(mercutio)
	s.put(invite)
	s.tw.intent(s.ctx, "a room of hers", func(in adapter.Intent) bool { return in.Kind == adapter.CreateRoom })
	s.put(from("!orchard:"+server, "$parked", "m.room.message", map[string]any{"msgtype": "m.text", "body": "it waits"}))
	s.until(mx, "it is put aside", func() bool {
		var n int
		return s.tw.db.QueryRow(`SELECT COUNT(*) FROM matrix_event WHERE done = 3`).Scan(&n) == nil && n == 1
	})
	for key, value := range map[string]string{receiptsKey(id.UserID("@juliet:" + server)): "off", relayKey(portal{uri: room}): "@juliet:" + server} {
		if err := b.st.set(key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.st.all(putRead(room, mustURI(local("juliet")), 3), putRead(room, mustURI(local("nurse")), 3)); err != nil {
		t.Fatal(err)
	}
	before := s.tw.everything()
	for _, table := range []string{"matrix_content", "matrix_read", "matrix_member", "matrix_setting", "matrix_portal", "matrix_event"} {
		if !slices.ContainsFunc(about(before, "juliet"), func(row string) bool { return strings.HasPrefix(row, table+":") }) {
			t.Errorf("the test puts nothing into %s", table)
		}
	}

	eraser := s.a.(adapter.Eraser)
	t.Run("the homeserver is away", func(t *testing.T) {
		s.stub.setFault(func(op string, _ *http.Request) *stubFault {
			if op == "leave" {
				return &stubFault{}
			}
			return nil
		})
		if err := eraser.EraseUser(s.ctx, mustURI(local("juliet"))); err == nil || !fault.Temporary(err) {
			t.Errorf("%v", err)
		}
		s.stub.setFault(nil)
	})
	for range 2 {
		if err := eraser.EraseUser(s.ctx, mustURI(local("juliet"))); err != nil {
			t.Fatal(err)
		}
		after := s.tw.everything()
		for _, row := range about(after, "juliet") {
			t.Errorf("still there: %s", row)
		}
		if strings.Contains(strings.Join(after, "\n"), "it waits") {
			t.Error("a text of hers is still there")
		}
		if got, want := len(about(after, "nurse")), len(about(before, "nurse")); got != want {
			t.Errorf("%d rows about nurse, %d before", got, want)
		}
	}
	if ev, err := b.st.eventOf(s.ctx, room, his); err != nil || string(ev) != hisEvent {
		t.Errorf("what others have said: %s, %v", ev, err)
	}
	s.stub.mu.Lock()
	defer s.stub.mu.Unlock()
	if m := s.stub.rooms[string(own)].members[s.stub.bot]; m != "leave" {
		t.Errorf("in her room the bot is %q", m)
	}
}

// TestForgetMessages: which event was which message is kept for 90 days, also for what an earlier version has stored.
func TestForgetMessages(t *testing.T) {
	s := newService(t)
	room, _ := s.portal()
	st := s.a.(*Adapter).current.Load().st
	old, fresh := s.tw.say(room, romeo, "old"), s.tw.say(room, romeo, "new")
	s.tw.settled(s.ctx)
	now := time.Now()
	if _, err := s.tw.db.Exec(`UPDATE matrix_content SET at = CASE WHEN message_id = $1 THEN CAST($2 AS INTEGER) ELSE 0 END`, old[:], now.Add(-91*24*time.Hour).UnixMilli()); err != nil {
		t.Fatal(err)
	}
	gone := mimiuri.MustParse("mimi://xmpp.example/r/gone")
	if err := st.all(putRead(gone, mustURI(local("juliet")), 1), putTopic(gone, []byte("t"), "$root"), putTopic(room, []byte("t"), "$root"),
		setMember("!gone:x", "@juliet:"+server, member{membership: "leave"}), setMember("!gone:x", "@nurse:"+server, member{membership: "join"})); err != nil {
		t.Fatal(err)
	}
	forget := func(now time.Time) {
		t.Helper()
		if err := st.forgetMessages(now, now.Add(-90*24*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	has := func(msg content.MessageID) bool {
		t.Helper()
		ev, err := st.eventOf(s.ctx, room, msg)
		_, known, err2 := st.byID(s.ctx, room, msg)
		if err != nil || err2 != nil || known != (ev != "") {
			t.Fatal(ev, known, err, err2)
		}
		return known
	}
	forget(now)
	if has(old) || !has(fresh) {
		t.Error("the wrong message was forgotten")
	}
	rows := strings.Join(s.tw.everything(), "\n")
	if strings.Contains(rows, "matrix_read: room_uri="+gone.String()) || strings.Contains(rows, "matrix_topic: room_uri="+gone.String()) || !strings.Contains(rows, "matrix_topic: room_uri="+room.String()) ||
		strings.Contains(rows, "room_id=!gone:x user_id=@juliet") || !strings.Contains(rows, "room_id=!gone:x user_id=@nurse") {
		t.Errorf("of rooms that are gone:\n%s", rows)
	}
	forget(now.Add(89 * 24 * time.Hour))
	if !has(fresh) {
		t.Error("forgotten too early")
	}
	forget(now.Add(91 * 24 * time.Hour))
	if has(fresh) {
		t.Error("not forgotten")
	}
}

// TestUninstall: a dry run changes nothing; what fails in between is taken up by another process; nothing is left in the end, and
// nothing comes back.
func TestUninstall(t *testing.T) {
	s := newService(t)
	room, mx := s.portal()
	s.tw.add(room, romeo, mercutio)
	hall := s.tw.newRoom("mimi://xmpp.example/r/hall", "Hall", mercutio)
	s.tw.add(hall, mercutio, local("juliet"))
	s.tw.send(room, romeo, content.Text("this will go").ExpireAt(time.Now().Add(time.Hour)))
	s.tw.settled(s.ctx)
	b := s.a.(*Adapter).current.Load()
	own, err := b.management(s.ctx, id.UserID("@juliet:"+server))
	if err != nil {
		t.Fatal(err)
	}
	decline := from("!x:"+server, "$decline", "m.room.member", map[string]any{"membership": "invite"})
	decline["sender"], decline["state_key"] = "@tybalt:other.example", "@mimi_who:"+server
	s.put(decline)
	s.until(mx, "it is declined", func() bool { return slices.Contains(s.stub.registered(), "@mimi_who:"+server) })

	uninstall := func(dry bool) ([]string, error) {
		var steps []string
		err := s.a.(adapter.Uninstaller).Uninstall(s.ctx, dry, func(step string) { steps = append(steps, step) })
		return steps, err
	}
	rows := len(s.tw.everything())
	changes := func() int {
		s.stub.mu.Lock()
		defer s.stub.mu.Unlock()
		n := 0
		for op, times := range s.stub.requests {
			if op == "leave" || op == "kick" || op == "send" || op == "redact" || op == "state PUT" || op == "directory" || op == "account" || op == "profile" {
				n += times
			}
		}
		return n
	}
	made := changes()
	steps, err := uninstall(true)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"redact 1 messages that were to disappear later",
		"room " + mx + " (mimi://xmpp.example/r/balcony): tell its people, remove 3 users of the bridge, its alias #mimi_balcony=xmpp.example:" + server + " and the state about the bridge",
		"(mimi://xmpp.example/r/hall): tell its people, remove 2 users of the bridge",
		"room " + string(own) + ": leave it",
		"4 accounts: remove name and picture, deactivate them",
		"empty the adapter's database",
	}
	for _, w := range want {
		if !slices.ContainsFunc(steps, func(s string) bool { return strings.Contains(s, w) }) {
			t.Errorf("the dry run does not say %q: %q", w, steps)
		}
	}
	if changes() != made || len(s.tw.everything()) != rows {
		t.Error("the dry run has changed something")
	}
	s.tw.say(room, romeo, "still here")
	s.tw.settled(s.ctx)

	failing := 0
	s.stub.setFault(func(op string, r *http.Request) *stubFault {
		if op == "leave" || op == "account" {
			if failing++; failing%3 == 0 {
				return &stubFault{after: failing%2 == 0}
			}
		}
		return nil
	})
	rounds := 0
	for {
		_, err := uninstall(false)
		if err == nil {
			break
		}
		if !fault.Temporary(err) || rounds > 20 {
			t.Fatal(rounds, err)
		}
		rounds++
		s.stop()
		s.start()
	}
	if rounds < 2 {
		t.Errorf("it failed %d times", rounds)
	}
	s.stub.setFault(nil)
	s.stub.mu.Lock()
	for name, r := range s.stub.rooms {
		for user, m := range r.members {
			if strings.HasPrefix(user, "@mimi_") && m != "leave" {
				t.Errorf("%s: %s is %s", name, user, m)
			}
		}
		for key, content := range r.state {
			if strings.Contains(key, "bridge") && string(content) != "{}" {
				t.Errorf("%s: %s is %s", name, key, content)
			}
		}
	}
	if len(s.stub.rooms[mx].redacts) != 1 {
		t.Errorf("redacted %v", s.stub.rooms[mx].redacts)
	}
	for alias := range s.stub.aliases {
		if strings.HasPrefix(alias, "#mimi_") {
			t.Errorf("%s is still there", alias)
		}
	}
	for user := range s.stub.accounts {
		if !s.stub.retired[user] || s.stub.named[user] != "" {
			t.Errorf("%s is still there, called %q", user, s.stub.named[user])
		}
	}
	s.stub.mu.Unlock()
	if got := s.stub.messages(mx); !slices.ContainsFunc(got, func(m string) bool { return strings.Contains(m, "is being removed") }) {
		t.Errorf("nobody was told: %q", got)
	}
	if left := slices.DeleteFunc(s.tw.everything(), func(r string) bool {
		return strings.HasPrefix(r, "matrix_schema:") || strings.Contains(r, goneKey) || !strings.HasPrefix(r, "matrix_")
	}); len(left) > 0 {
		t.Errorf("left in the database: %q", left)
	}

	t.Run("nothing comes back", func(t *testing.T) {
		accounts, rooms := len(s.stub.registered()), s.stub.count("createRoom")
		s.tw.say(room, romeo, "hello?")
		s.tw.add(hall, mercutio, romeo)
		s.put(from(mx, "$late", "m.room.message", map[string]any{"msgtype": "m.text", "body": "too late"}))
		for _, path := range []string{"/_matrix/app/v1/rooms/" + url.PathEscape("#mimi_other=xmpp.example:"+server), "/_matrix/app/v1/users/" + url.PathEscape(ghostOf(romeo))} {
			if status, _ := s.do(http.MethodGet, path, "", nil); status != http.StatusNotFound {
				t.Errorf("%s: %d", path, status)
			}
		}
		s.tw.settled(s.ctx)
		if len(s.stub.registered()) != accounts || s.stub.count("createRoom") != rooms || s.tw.count(sends("too late")) != 0 {
			t.Error("something came back")
		}
		if ok, err := s.a.LocalUser(s.ctx, mustURI(local("juliet"))); ok || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
	})
}
