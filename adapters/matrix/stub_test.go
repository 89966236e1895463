package matrix

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// stub is as much of a homeserver as the adapter needs, with faults on demand: what no real one does when asked.
type stub struct {
	t     testing.TB
	url   string
	token string
	bot   string

	mu       sync.Mutex
	accounts map[string]bool
	rooms    map[string]*stubRoom
	aliases  map[string]string
	fault    func(op string, r *http.Request) *stubFault // before or after the request is carried out
	requests map[string]int
	versions string
	ping     func() (int, string)
	media    map[string][]byte // by media ID
	retired  map[string]bool   // accounts that were deactivated
	named    map[string]string // display names
}

type stubRoom struct {
	members map[string]string
	state   map[string]json.RawMessage
	events  []map[string]any
	txns    map[string]string
	redacts []string // event IDs
	read    []string // "user event"
}

// event is one that a room's timeline has.
func (s *stub) event(room, id string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ev := range s.rooms[room].events {
		if ev["event_id"] == id {
			return ev
		}
	}
	return nil
}

// find looks for events of a type in a room, in order.
func (s *stub) find(room, typ string) (out []map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ev := range s.rooms[room].events {
		if ev["type"] == typ {
			out = append(out, ev)
		}
	}
	return out
}

// stubFault is what goes wrong.
type stubFault struct {
	after  bool          // the request is carried out, and only its answer is lost
	status int           // 0: the connection breaks off
	body   string        // JSON
	header [2]string     // name, value
	wait   time.Duration // before anything
}

func newStub(t testing.TB) *stub {
	s := &stub{t: t, accounts: map[string]bool{}, rooms: map[string]*stubRoom{}, aliases: map[string]string{}, requests: map[string]int{}, media: map[string][]byte{}, retired: map[string]bool{}, named: map[string]string{}, versions: `{"versions":["v1.11"]}`}
	server := httptest.NewServer(s)
	s.url = server.URL
	t.Cleanup(server.Close)
	return s
}

func (s *stub) setFault(f func(op string, r *http.Request) *stubFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

func (s *stub) registered() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for u := range s.accounts {
		out = append(out, u)
	}
	slices.Sort(out)
	return out
}

func (s *stub) count(op string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[op]
}

// messages are the bodies of a room's messages, in order.
func (s *stub) messages(room string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ev := range s.rooms[room].events {
		c, _ := ev["content"].(map[string]any)
		if ev["type"] != "m.room.message" {
			continue
		}
		out = append(out, fmt.Sprint(ev["sender"], ": ", c["body"]))
	}
	return out
}

func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Split(strings.TrimPrefix(r.URL.Path, "/_matrix/client/"), "/")
	op := r.Method
	switch {
	case len(path) > 3 && path[1] == "rooms":
		op = path[3]
		if op == "state" {
			op += " " + r.Method
		}
	case len(path) > 1:
		op = path[1]
	case len(path) == 1:
		op = path[0]
	}
	s.mu.Lock()
	s.requests[op]++
	var f *stubFault
	if s.fault != nil {
		f = s.fault(op, r)
	}
	s.mu.Unlock()
	if f != nil {
		time.Sleep(f.wait)
		if f.after {
			s.serve(httptest.NewRecorder(), r, path)
		}
		if f.status == 0 {
			if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
				conn.Close()
			}
			return
		}
		if f.header[0] != "" {
			w.Header().Set(f.header[0], f.header[1])
		}
		w.WriteHeader(f.status)
		fmt.Fprint(w, f.body)
		return
	}
	s.serve(w, r, path)
}

func (s *stub) serve(w http.ResponseWriter, r *http.Request, path []string) {
	if strings.Contains(r.URL.Path, "/media/") {
		s.serveMedia(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	reply := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	refuse := func(status int, code string) {
		w.WriteHeader(status)
		reply(map[string]string{"errcode": code, "error": "no"})
	}
	if path[0] == "versions" {
		fmt.Fprint(w, s.versions)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+s.token {
		refuse(401, mUnknownToken)
		return
	}
	user := r.URL.Query().Get("user_id")
	if user == "" {
		user = s.bot
	}
	var body map[string]any
	_ = json.NewDecoder(r.Body).Decode(&body)
	str := func(key string) string { v, _ := body[key].(string); return v }
	switch path[1] {
	case "account":
		if path[2] == "deactivate" {
			if !s.accounts[user] || s.retired[user] {
				refuse(403, mForbidden)
				return
			}
			s.retired[user] = true
			reply(struct{}{})
			return
		}
		reply(map[string]string{"user_id": s.bot})
	case "appservice":
		if s.ping == nil {
			refuse(404, mUnrecognized)
			return
		}
		status, code := s.ping()
		if status != 200 {
			refuse(status, code)
			return
		}
		reply(map[string]int{"duration_ms": 1})
	case "register":
		u := "@" + str("username") + ":" + server
		if s.accounts[u] {
			refuse(400, mUserInUse)
			return
		}
		s.accounts[u] = true
		reply(map[string]string{"user_id": u})
	case "profile":
		if r.Method == http.MethodGet && !s.accounts[path[2]] && path[2] != "@juliet:"+server {
			refuse(404, mNotFound)
			return
		}
		if r.Method == http.MethodPut && path[3] == "displayname" {
			s.named[path[2]] = str("displayname")
		}
		reply(struct{}{})
	case "createRoom":
		alias := "#" + str("room_alias_name") + ":" + server
		if alias != "#:"+server && s.aliases[alias] != "" {
			refuse(400, mRoomInUse)
			return
		}
		id := fmt.Sprintf("!room%d:%s", len(s.rooms), server)
		room := &stubRoom{members: map[string]string{user: "join"}, state: map[string]json.RawMessage{}, txns: map[string]string{}}
		list, _ := body["invite"].([]any)
		for _, u := range list {
			room.members[u.(string)] = "invite"
		}
		initial, _ := body["initial_state"].([]any)
		for _, one := range initial {
			ev := one.(map[string]any)
			room.state[fmt.Sprint(ev["type"], " ", ev["state_key"])], _ = json.Marshal(ev["content"])
		}
		s.rooms[id], s.aliases[alias] = room, id
		reply(map[string]string{"room_id": id})
	case "directory":
		room := s.aliases[path[3]]
		if room == "" {
			refuse(404, mNotFound)
			return
		}
		if r.Method == http.MethodDelete {
			delete(s.aliases, path[3])
		}
		reply(map[string]string{"room_id": room})
	case "rooms":
		s.serveRoom(w, r, path, user, body, reply, refuse)
	default:
		refuse(404, mUnrecognized)
	}
}

func (s *stub) serveRoom(w http.ResponseWriter, r *http.Request, path []string, user string, body map[string]any, reply func(any), refuse func(int, string)) {
	room := s.rooms[path[2]]
	if room == nil {
		refuse(403, mForbidden)
		return
	}
	target, _ := body["user_id"].(string)
	in := room.members[user] == "join"
	if !in && path[3] != "join" && path[3] != "leave" {
		refuse(403, mForbidden)
		return
	}
	switch path[3] {
	case "join":
		if !in && room.members[user] != "invite" {
			refuse(403, mForbidden)
			return
		}
		room.members[user] = "join"
		reply(map[string]string{"room_id": path[2]})
	case "invite":
		if room.members[target] == "join" || room.members[target] == "ban" {
			refuse(403, mForbidden)
			return
		}
		room.members[target] = "invite"
		reply(struct{}{})
	case "kick", "unban":
		room.members[target] = "leave"
		reply(struct{}{})
	case "leave":
		room.members[user] = "leave"
		reply(struct{}{})
	case "send":
		txn := user + path[5]
		if room.txns[txn] == "" {
			id := fmt.Sprintf("$event%d", len(room.events))
			room.txns[txn] = id
			room.events = append(room.events, map[string]any{"event_id": id, "type": path[4], "sender": user, "content": body})
		}
		reply(map[string]string{"event_id": room.txns[txn]})
	case "redact":
		room.redacts = append(room.redacts, path[4])
		reply(map[string]string{"event_id": fmt.Sprintf("$redaction%d", len(room.redacts))})
	case "receipt":
		room.read = append(room.read, user+" "+path[5])
		reply(struct{}{})
	case "event":
		for _, ev := range room.events {
			if ev["event_id"] == path[4] {
				reply(ev)
				return
			}
		}
		refuse(404, mNotFound)
	case "messages":
		events := slices.Clone(room.events)
		slices.Reverse(events)
		reply(map[string]any{"chunk": events})
	case "state":
		switch {
		case len(path) == 4:
			all := []map[string]any{{"type": "m.room.create", "sender": s.bot, "state_key": "", "event_id": "$create", "content": struct{}{}}}
			for name, content := range room.state {
				typ, key, _ := strings.Cut(name, " ")
				all = append(all, map[string]any{"type": typ, "sender": s.bot, "state_key": key, "event_id": "$s", "content": content})
			}
			reply(all)
		case r.Method == http.MethodGet && room.state[path[4]+" "] != nil:
			reply(room.state[path[4]+" "])
		case r.Method == http.MethodGet && path[4] == "m.room.member":
			reply(map[string]string{"membership": room.members[path[5]]})
		case r.Method == http.MethodGet && path[4] == "m.room.power_levels":
			reply(map[string]any{"users": map[string]int{s.bot: 100}})
		case r.Method == http.MethodGet:
			refuse(404, mNotFound)
		default:
			key := ""
			if len(path) > 5 {
				key = strings.Join(path[5:], "/")
			}
			room.state[path[4]+" "+key], _ = json.Marshal(body)
			reply(map[string]string{"event_id": "$state"})
		}
	case "joined_members":
		joined := map[string]any{}
		for u, m := range room.members {
			if m == "join" {
				joined[u] = struct{}{}
			}
		}
		reply(map[string]any{"joined": joined})
	default:
		refuse(404, mUnrecognized)
	}
}

// serveMedia keeps uploads and gives them out again.
func (s *stub) serveMedia(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+s.token {
		w.WriteHeader(401)
		return
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/config"):
		fmt.Fprint(w, `{"m.upload.size":1000000}`)
	case r.Method == http.MethodPost:
		b, err := io.ReadAll(r.Body)
		if err != nil || r.ContentLength != int64(len(b)) {
			w.WriteHeader(400)
			return
		}
		s.mu.Lock()
		id := fmt.Sprintf("media%d", len(s.media))
		s.media[id] = b
		s.mu.Unlock()
		fmt.Fprintf(w, `{"content_uri":"mxc://%s/%s"}`, server, id)
	default:
		s.mu.Lock()
		b, ok := s.media[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]
		s.mu.Unlock()
		if !ok {
			w.WriteHeader(404)
			fmt.Fprint(w, `{"errcode":"M_NOT_FOUND"}`)
			return
		}
		_, _ = w.Write(b)
	}
}
