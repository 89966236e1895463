package matrix

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// service is the adapter in front of a stub homeserver: its own doors, without a real homeserver.
type service struct {
	t    testing.TB
	ctx  context.Context
	tw   *twin
	stub *stub
	cfg  Config
	reg  *Registration
	a    adapter.Adapter
	stop func()
	txns int
}

func newService(t testing.TB) *service {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	ports, err := testnet.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	s := &service{t: t, ctx: ctx, tw: newTwin(t), stub: newStub(t)}
	s.cfg = Config{
		Homeserver: s.stub.url, ServerName: server, Listen: testnet.Loopback(ports[0]),
		Registration: filepath.Join(t.TempDir(), "registration.yaml"), MaxTransaction: 1 << 20, RequestTimeout: time.Second, Notices: true, noProbe: true,
	}
	if s.reg, err = NewRegistration(s.cfg.Registration, "http://"+s.cfg.Listen, server); err != nil {
		t.Fatal(err)
	}
	s.stub.token, s.stub.bot = s.reg.ASToken, "@"+s.reg.SenderLocalpart+":"+server
	s.start()
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("adapter's log:\n%s", s.tw.logs)
		}
	})
	return s
}

func (s *service) start() {
	s.t.Helper()
	a, err := New(s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.a = a
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, s.tw) }()
	s.tw.mu.Lock()
	s.tw.adapter = a
	s.tw.wake.Broadcast()
	s.tw.mu.Unlock()
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		s.tw.mu.Lock()
		s.tw.adapter = nil
		s.tw.mu.Unlock()
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Run: %v", err)
		}
	}
	if err := testnet.WaitPort(s.ctx, s.cfg.Listen); err != nil {
		s.t.Fatal(err)
	}
}

// portal gives the adapter a room with juliet in it.
func (s *service) portal() (room mimiuri.URI, matrixRoom string) {
	s.t.Helper()
	room = s.tw.newRoom("mimi://xmpp.example/r/balcony", "Balcony", romeo)
	s.tw.add(room, romeo, local("juliet"))
	s.tw.settled(s.ctx)
	p, ok, err := s.a.(*Adapter).current.Load().st.portal(s.ctx, room)
	if err != nil || !ok {
		s.t.Fatalf("no portal: %v", err)
	}
	return room, string(p.room)
}

// do makes a request as the homeserver would; header overrides, "" removes.
func (s *service) do(method, path, body string, header map[string]string) (status int, answer string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.ctx, method, "http://"+s.cfg.Listen+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.reg.HSToken)
	for k, v := range header {
		if v == "" {
			req.Header.Del(k)
		} else {
			req.Header.Set(k, v)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func text(room, eventID, body string) map[string]any {
	return map[string]any{
		"event_id": eventID, "room_id": room, "sender": "@juliet:" + server, "type": "m.room.message", "origin_server_ts": 1700000000000,
		"content": map[string]any{"msgtype": "m.text", "body": body},
	}
}

func transaction(events ...any) string {
	b, err := json.Marshal(map[string]any{"events": events})
	if err != nil {
		panic(err)
	}
	return string(b)
}

const txnPath = "/_matrix/app/v1/transactions/"

func TestTransactions(t *testing.T) {
	s := newService(t)
	room, mx := s.portal()
	put := func(txn, body string, want int) {
		t.Helper()
		if status, answer := s.do(http.MethodPut, txnPath+txn, body, nil); status != want {
			t.Errorf("%s: %d %s, want %d", txn, status, answer, want)
		}
	}
	a, b, c := text(mx, "$a", "a"), text(mx, "$b", "b"), text(mx, "$c", "c")
	put("1", transaction(a, b), 200)
	put("1", transaction(a, b), 200)    // repeated
	put("1", transaction(a, b, c), 200) // grown
	put("2", transaction(c, text(mx, "$d", "d")), 200)
	put("3", transaction(text(mx, "$e", "e"), text(mx, "$e", "e again")), 200)
	s.tw.intent(s.ctx, "e", sends("e"))
	put("4", transaction(), 200)
	put("5", `{"events":[],"ephemeral":[{"type":"m.typing"}],"de.sorunome.msc2409.ephemeral":[]}`, 200)
	if status, _ := s.do(http.MethodPut, "/transactions/6?access_token="+s.reg.HSToken, transaction(text(mx, "$f", "f")), map[string]string{"Authorization": ""}); status != 200 {
		t.Errorf("the old path: %d", status)
	}
	s.tw.intent(s.ctx, "f", sends("f"))

	t.Run("things that are no events do not stop the others", func(t *testing.T) {
		deep := strings.Repeat(`{"a":[`, 6000) + strings.Repeat(`]}`, 6000)
		odd := []string{
			`null`, `1`, `"x"`, `[]`, `{}`, `{"event_id":"$x"}`, `{"event_id":7,"room_id":"!a","sender":"@a:b","type":"m.room.message"}`,
			`{"event_id":"$x1","room_id":"` + mx + `","sender":"@juliet:` + server + `","type":"m.room.message","content":"no object"}`,
			`{"event_id":"$x2","room_id":"` + mx + `","sender":"@juliet:` + server + `","type":"m.room.message","content":{"msgtype":["m.text"],"body":{}}}`,
			`{"event_id":"$x3","room_id":"` + mx + `","sender":"@juliet:` + server + `","type":"m.room.message","content":{"msgtype":"m.text"}}`,
			`{"event_id":"$x4","room_id":"` + mx + `","sender":"@juliet:` + server + `","type":"m.room.member","content":{"membership":"join"}}`,
			`{"event_id":"$x5","room_id":"` + mx + `","sender":"@juliet:` + server + `","type":"m.room.member","state_key":"` + strings.Repeat("x", 300) + `","content":{"membership":"join"}}`,
			`{"event_id":"$x6","room_id":"` + mx + `","sender":"@juliet:` + server + `","type":"m.room.member","state_key":"@juliet:` + server + `","content":{"membership":5}}`,
			`{"event_id":"$` + strings.Repeat("x", 300) + `","room_id":"` + mx + `","sender":"@juliet:` + server + `","type":"m.room.message","content":{"msgtype":"m.text","body":"long id"}}`,
			`{"event_id":"$x7","room_id":"` + mx + `","sender":"@mallory:` + server + `","Sender":"@juliet:` + server + `","type":"m.room.message","content":{"msgtype":"m.text","body":"spoofed"}}`,
			`{"event_id":"$x8","room_id":"` + mx + `","sender":"` + ghostOf(romeo) + `","type":"m.room.message","content":{"msgtype":"m.text","body":"an echo"}}`,
			`{"event_id":"$x9","room_id":"` + mx + `","sender":"@juliet:` + server + `","type":"m.room.message","content":{"msgtype":"m.text","body":"deep","x":` + deep + `}}`,
		}
		put("odd", `{"events":[`+strings.Join(odd, ",")+`,`+string(mustJSON(text(mx, "$g", `g ]}"{[\`)))+`]}`, 200)
		s.tw.intent(s.ctx, "g", sends(`g ]}"{[\`))
		s.tw.settled(s.ctx)
		for _, in := range s.tw.intents {
			if in.Kind == adapter.SendMessage && in.Actor.ID == "juliet" {
				if text, _ := in.Content.PlainText(); slices.Contains([]string{"spoofed", "an echo", "deep", "long id"}, text) {
					t.Errorf("%q became a message of juliet's", text)
				}
			}
		}
	})
	t.Run("malformed", func(t *testing.T) {
		for i, body := range []string{"", "{", "null", "[]", `"x"`, `{"events":{}}`, `{}`, `{"events":`, `{"events":[{]}`, `{"Events":[]}`,
			strings.Repeat("[", 20000), `{"events":[` + strings.Repeat(`{"a":`, 100), "\xff\xfe"} {
			status, answer := s.do(http.MethodPut, txnPath+fmt.Sprint("bad", i), body, nil)
			if status != 400 || !strings.Contains(answer, "errcode") {
				t.Errorf("%.40q: %d %s", body, status, answer)
			}
		}
	})
	t.Run("oversized", func(t *testing.T) {
		put("huge", `{"events":[],"x":"`+strings.Repeat("x", 1<<20)+`"}`, http.StatusRequestEntityTooLarge)
		// Lengths that are not announced count as well.
		req, err := http.NewRequestWithContext(s.ctx, http.MethodPut, "http://"+s.cfg.Listen+txnPath+"huge2", io.LimitReader(forever{}, 2<<20))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+s.reg.HSToken)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s", resp.Status)
		}
	})
	t.Run("the link stays up", func(t *testing.T) {
		put("last", transaction(text(mx, "$last", "last")), 200)
		s.tw.intent(s.ctx, "last", sends("last"))
	})
	want := []string{"juliet: a", "juliet: b", "juliet: c", "juliet: d", "juliet: e", "juliet: f", `juliet: g ]}"{[\`, "juliet: last"}
	s.tw.settled(s.ctx)
	got := s.tw.textsOf(room)
	if !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
	for _, leak := range []string{"spoofed", "g ]}", s.reg.HSToken, s.reg.ASToken} {
		if strings.Contains(s.tw.logs.String(), leak) {
			t.Errorf("the log has %q", leak)
		}
	}
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

type forever struct{}

func (forever) Read(p []byte) (int, error) {
	copy(p, bytes.Repeat([]byte(" "), len(p)))
	return len(p), nil
}

func TestHomeserverToken(t *testing.T) {
	s := newService(t)
	_, mx := s.portal()
	for _, tc := range []struct {
		name   string
		path   string
		header string
		want   int
	}{
		{"none", "", "", 401},
		{"wrong", "", "Bearer wrong", 403},
		{"as_token", "", "Bearer " + s.reg.ASToken, 403},
		{"begins right", "", "Bearer " + s.reg.HSToken[:20], 403},
		{"more than right", "", "Bearer " + s.reg.HSToken + "x", 403},
		{"not Bearer", "", "Basic " + s.reg.HSToken, 403},
		{"wrong in the query", "?access_token=wrong", "", 403},
		{"wrong in the query, right in the header", "?access_token=wrong", "Bearer " + s.reg.HSToken, 403},
		{"right in the query, wrong in the header", "?access_token=" + s.reg.HSToken, "Bearer wrong", 403},
		{"twice right", "?access_token=" + s.reg.HSToken, "Bearer " + s.reg.HSToken, 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, door := range []struct{ method, path, body string }{
				{http.MethodPut, txnPath + "t", transaction(text(mx, "$"+fmt.Sprint(len(tc.name)), tc.name))},
				{http.MethodGet, "/_matrix/app/v1/users/" + ghostOf(romeo), ""},
				{http.MethodPost, "/_matrix/app/v1/ping", "{}"},
			} {
				status, answer := s.do(door.method, door.path+tc.path, door.body, map[string]string{"Authorization": tc.header})
				if status != tc.want {
					t.Errorf("%s %s: %d %s", door.method, door.path, status, answer)
				}
			}
			if tc.want != 200 {
				if n := s.tw.count(sends(tc.name)); n != 0 {
					t.Error("the event was taken")
				}
			}
		})
	}
	s.tw.intent(s.ctx, "the one with the right token", sends("twice right"))
	if n := s.tw.count(func(in adapter.Intent) bool { return in.Kind == adapter.SendMessage }); n != 1 {
		t.Errorf("%d messages", n)
	}
}

func TestQueries(t *testing.T) {
	s := newService(t)
	for _, tc := range []struct {
		path string
		want int
	}{
		{"users/" + ghostOf(romeo), 200},
		{"users/" + strings.ReplaceAll(ghostOf("mimi://a.b:8443/u/x%2Fy"), ":", "%3A"), 200},
		{"users/@" + s.reg.SenderLocalpart + ":" + server, 200},
		{"users/" + ghostOf("mimi://"+twinDomain+"/u/juliet"), 404}, // a person of this homeserver is no ghost
		{"users/@mimi_nonsense:" + server, 404},
		{"users/@mimi_x=a.b:other.net", 404},
		{"users/@mimi_=haaaa:" + server, 404},
		{"users/nonsense", 404},
		{"rooms/" + strings.ReplaceAll("#mimi_balcony=xmpp.example:"+server, "#", "%23"), 200},
		{"rooms/%23mimi_nowhere=" + twinDomain + ":" + server, 404},
		{"rooms/%23mimi_balcony:" + server, 404},
		{"rooms/%23mimi_balcony=xmpp.example:other.net", 404},
		{"thirdparty/protocol/mimi", 404},
	} {
		if status, answer := s.do(http.MethodGet, "/_matrix/app/v1/"+tc.path, "", nil); status != tc.want {
			t.Errorf("%s: %d %s", tc.path, status, answer)
		}
	}
	if got := s.stub.registered(); !slices.Contains(got, ghostOf(romeo)) || !slices.Contains(got, ghostOf("mimi://a.b:8443/u/x%2Fy")) || len(got) > 3 {
		t.Errorf("made %q", got)
	}
	if status, _ := s.do(http.MethodPost, "/_matrix/app/v1/ping", `{"transaction_id":"x"}`, nil); status != 200 {
		t.Errorf("ping: %d", status)
	}
}

func FuzzTransaction(f *testing.F) {
	f.Add([]byte(transaction(text("!r:x", "$a", "a"))))
	f.Add([]byte(`{"events":[{"event_id":"$a","room_id":"!a","sender":"@a:b","type":"m.room.member","state_key":"@a:b"}]}`))
	f.Add([]byte(`{"a":"\"","events":[{"x":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `},{}]}`))
	b := &bridge{server: server, domain: twinDomain, host: newTwin(f)}
	f.Fuzz(func(t *testing.T, body []byte) {
		events, _, err := b.parseTransaction(body)
		if err != nil && len(events) > 0 {
			t.Fatal("events and an error")
		}
		for _, ev := range events {
			parsed, err := parseEvent(ev.body)
			if err != nil || parsed.ID != ev.id || parsed.RoomID != ev.room {
				t.Fatalf("%q: %v", ev.body, err)
			}
			body := asObject(parsed.Content)
			if part := b.textPart(t.Context(), body); part != nil && len(part.Content) > 1<<20 {
				t.Fatalf("%d octets of text", len(part.Content))
			}
			if part := pollPart(body); part != nil && len(part.Parts) == 1 {
				t.Fatal("a choice of one")
			}
			locationOf(locationText(body.str("body"), body.str("geo_uri")))
		}
		// Both ways of finding the events agree on what can be read in the usual way.
		var usual struct {
			Events []json.RawMessage `json:"events"`
		}
		if o := asObject(body); o != nil && json.Unmarshal(o["events"], &usual.Events) == nil && usual.Events != nil && bytes.Count(body, []byte("events")) == 1 && !tooDeep(body) {
			cut, err := cutEvents(body)
			n := 0
			for _, e := range usual.Events {
				if len(e) > 0 && e[0] == '{' {
					n++
				}
			}
			if n > 0 && (err != nil || len(cut) != n) {
				t.Fatalf("%d events, %d cut: %v", n, len(cut), err)
			}
		}
	})
}
