package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Status is what `mimibridge status` prints.
type Status struct {
	Domain   string            `json:"domain"`
	Version  string            `json:"version"`
	Ready    bool              `json:"ready"`
	Why      string            `json:"why,omitempty"` // not ready
	Started  time.Time         `json:"started,omitzero"`
	Rooms    map[string]int    `json:"rooms"`             // by status
	Hub      int               `json:"hub"`               // open rooms kept here
	Peers    int               `json:"peers"`             // other providers
	Failing  []string          `json:"failing,omitempty"` // peers that could not be reached at the last try
	Queues   map[string]int    `json:"queues"`            // entries that wait, by kind
	Counters map[string]uint64 `json:"counters"`
}

func (s *Server) status(ctx context.Context) (*Status, error) {
	p := s.cfg.Provider
	st := &Status{Domain: p.Domain(), Version: s.cfg.Version, Started: p.Started().UTC(), Rooms: map[string]int{}, Queues: map[string]int{}, Counters: p.Counters()}
	if err := p.Ready(ctx); err != nil {
		st.Why = public(err)
	} else {
		st.Ready = true
	}
	rooms, err := p.ListRooms(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range rooms {
		st.Rooms[r.Status]++
		if r.Hub && r.Status == "open" {
			st.Hub++
		}
	}
	queues, err := p.Queues(ctx)
	if err != nil {
		return nil, err
	}
	for _, q := range queues {
		if q.Kind != "peer" || q.Target != p.Domain() {
			st.Queues[q.Kind] += q.N
		}
	}
	peers, err := p.Peers(ctx)
	if err != nil {
		return nil, err
	}
	st.Peers = len(peers)
	for _, peer := range peers {
		if peer.Failure != "" {
			st.Failing = append(st.Failing, peer.Domain)
		}
	}
	return st, nil
}

// RoomView is a room with what the own users see of it.
type RoomView struct {
	Room    any      `json:"room"`
	Subject string   `json:"subject,omitempty"`
	Members []Member `json:"members"`
	Offline bool     `json:"offline,omitempty"`
	Banned  []string `json:"banned,omitempty"`
}

// Member is a participant.
type Member struct {
	User  string `json:"user"`
	Role  string `json:"role"`
	Send  bool   `json:"send"`
	Admin bool   `json:"admin"`
}

func (s *Server) socketHandler() http.Handler {
	p := s.cfg.Provider
	mux := http.NewServeMux()
	s.monitoring(mux, func(h http.HandlerFunc) http.HandlerFunc { return h })
	get := func(path string, fn func(r *http.Request) (any, error)) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			v, err := fn(r)
			answer(w, v, err)
		})
	}
	post := func(path string, fn func(r *http.Request, q Query) (any, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			var q Query
			if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&q); err != nil {
				fail(w, fault.New(fault.Malformed, "the body is no JSON object of a request"))
				return
			}
			v, err := fn(r, q)
			answer(w, v, err)
		})
	}
	get("/v1/status", func(r *http.Request) (any, error) { return s.status(r.Context()) })
	get("/v1/rooms", func(r *http.Request) (any, error) { return p.ListRooms(r.Context()) })
	get("/v1/room", func(r *http.Request) (any, error) {
		room, err := parse(r.URL.Query().Get("room"), mimiuri.Room, p.Domain())
		if err != nil {
			return nil, err
		}
		info, view, err := p.ShowRoom(r.Context(), room)
		if err != nil {
			return nil, err
		}
		v := RoomView{Room: info, Members: []Member{}}
		if view != nil {
			v.Subject, v.Offline = view.Subject, view.Offline
			for _, m := range view.Participants {
				v.Members = append(v.Members, Member{m.User.String(), m.RoleName, m.Send, m.Admin})
			}
			for _, b := range view.Banned {
				v.Banned = append(v.Banned, b.String())
			}
		}
		return v, nil
	})
	get("/v1/peers", func(r *http.Request) (any, error) { return p.Peers(r.Context()) })
	post("/v1/peer/check", func(r *http.Request, q Query) (any, error) {
		dir, err := p.CheckPeer(r.Context(), q.Peer)
		return map[string]any{"peer": q.Peer, "directory": dir}, err
	})
	post("/v1/peer/retry", func(r *http.Request, q Query) (any, error) {
		n, err := p.RetryPeer(r.Context(), q.Peer)
		return map[string]int{"peers": n}, err
	})
	get("/v1/queues", func(r *http.Request) (any, error) { return p.Queues(r.Context()) })
	post("/v1/queue/drop", func(r *http.Request, q Query) (any, error) {
		ok, err := p.DropQueue(r.Context(), q.Kind, q.Room, q.Target)
		if err == nil && !ok {
			err = fault.New(fault.NotFound, "nothing waits there")
		}
		return map[string]bool{"dropped": ok}, err
	})
	get("/v1/users", func(r *http.Request) (any, error) { return p.Users(r.Context()) })
	s.users(get, post, mux)
	s.reports(get, post)
	s.uninstall(get, post)
	mux.HandleFunc("GET /v1/directory", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(p.Directory())
	})
	get("/v1/config", func(r *http.Request) (any, error) { return s.cfg.Settings(), nil })
	post("/v1/reload", func(r *http.Request, q Query) (any, error) {
		changed, restart, err := s.cfg.Reload()
		if err != nil {
			return nil, fault.New(fault.Malformed, err.Error())
		}
		return map[string][]string{"changed": changed, "restart": restart}, nil
	})
	if s.cfg.Console != nil {
		mux.Handle("/v1/console/", http.StripPrefix("/v1/console", s.cfg.Console))
	}
	return mux
}

// Query is the body of a POST.
type Query struct {
	Room   string `json:"room,omitempty"`
	Peer   string `json:"peer,omitempty"`
	User   string `json:"user,omitempty"`
	Other  string `json:"other,omitempty"`
	Kind   string `json:"kind,omitempty"`
	Target string `json:"target,omitempty"`
	Action string `json:"action,omitempty"`
	GiveUp bool   `json:"give_up,omitempty"`
}

// parse reads a URI, or a name of this provider.
func parse(s string, kind mimiuri.Kind, domain string) (mimiuri.URI, error) {
	u, err := mimiuri.ParseKind(s, kind)
	if err != nil {
		u, err = mimiuri.New(domain, kind, s)
	}
	if err != nil {
		return u, fault.New(fault.Malformed, "this is no mimi: URI of the right kind, and no name")
	}
	return u, nil
}

// user finds a local user: by URI, by the network's id, by name.
func (s *Server) user(id string) (mimiuri.URI, error) {
	if u, ok := s.cfg.LocalUser(id); ok {
		return u, nil
	}
	u, err := parse(id, mimiuri.User, s.cfg.Provider.Domain())
	if err == nil && u.Domain != s.cfg.Provider.Domain() {
		err = fault.New(fault.Malformed, "this is no user of this provider")
	}
	return u, err
}

// Contact is a contact of a local user, as it is printed.
type Contact struct {
	User    string    `json:"user"`
	Room    string    `json:"room,omitempty"`
	Grants  string    `json:"grants"`
	Granted string    `json:"granted"`
	Since   time.Time `json:"since,omitzero"`
}

var consentNames = map[adapter.ConsentState]string{
	adapter.ConsentNone: "none", adapter.ConsentAsking: "asking", adapter.ConsentAsked: "asked",
	adapter.ConsentGranted: "granted", adapter.ConsentRefused: "refused", adapter.ConsentBlocked: "blocked",
}

// UserView is what `mimibridge user show` prints.
type UserView struct {
	User     string    `json:"user"`
	Policy   string    `json:"consent_policy"`
	Deleting bool      `json:"deleting,omitempty"` // their removal is under way
	Rooms    []string  `json:"rooms"`
	Contacts []Contact `json:"contacts"`
	Blocked  []string  `json:"blocked"`
}

func (s *Server) users(get func(string, func(*http.Request) (any, error)), post func(string, func(*http.Request, Query) (any, error)), mux *http.ServeMux) {
	p := s.cfg.Provider
	host := func() (adapter.Host, error) {
		if h := p.Host(""); h != nil {
			return h, nil
		}
		return nil, fault.New(fault.Unavailable, "this provider has no adapter")
	}
	contacts := func(ctx context.Context, h adapter.Host, u mimiuri.URI) ([]Contact, error) {
		list, err := h.Contacts(ctx, u)
		out := []Contact{}
		for _, c := range list {
			one := Contact{User: c.User.String(), Grants: consentNames[c.Grants], Granted: consentNames[c.Granted], Since: c.Since.UTC()}
			if !c.Room.IsZero() {
				one.Room = c.Room.String()
			}
			out = append(out, one)
		}
		return out, err
	}
	get("/v1/user", func(r *http.Request) (any, error) {
		h, err := host()
		if err != nil {
			return nil, err
		}
		u, err := s.user(r.URL.Query().Get("user"))
		if err != nil {
			return nil, err
		}
		v := UserView{User: u.String(), Rooms: []string{}, Blocked: []string{}}
		if v.Policy, err = h.ConsentPolicy(r.Context(), u); err != nil {
			return nil, err
		}
		deleting, err := p.Deleting(r.Context())
		if err != nil {
			return nil, err
		}
		v.Deleting = slices.Contains(deleting, u)
		rooms, err := p.ListRooms(r.Context())
		if err != nil {
			return nil, err
		}
		for _, room := range rooms {
			uri, err := mimiuri.ParseKind(room.URI, mimiuri.Room)
			if err != nil {
				continue
			}
			view, ok, err := h.Room(r.Context(), uri)
			if err != nil || !ok {
				continue
			}
			for _, m := range view.Participants {
				if m.User == u {
					v.Rooms = append(v.Rooms, room.URI)
				}
			}
		}
		if v.Contacts, err = contacts(r.Context(), h, u); err != nil {
			return nil, err
		}
		blocked, err := h.Blocked(r.Context(), u)
		for _, b := range blocked {
			v.Blocked = append(v.Blocked, b.String())
		}
		return v, err
	})
	// A consent action (ask, grant, refuse, forget) or a policy (everyone …) of a local user.
	post("/v1/user/consent", func(r *http.Request, q Query) (any, error) {
		h, err := host()
		if err != nil {
			return nil, err
		}
		u, err := s.user(q.User)
		if err != nil {
			return nil, err
		}
		if q.Action == "policy" {
			return struct{}{}, h.SetConsentPolicy(r.Context(), u, q.Kind)
		}
		action, ok := map[string]adapter.ConsentAction{"ask": adapter.AskConsent, "grant": adapter.GrantConsent, "refuse": adapter.RefuseConsent, "forget": adapter.ForgetConsent}[q.Action]
		if !ok {
			return nil, fault.New(fault.Malformed, "the action is ask, grant, refuse, forget or policy")
		}
		other, err := parse(q.Other, mimiuri.User, p.Domain())
		if err != nil {
			return nil, err
		}
		return struct{}{}, h.Consent(r.Context(), u, other, mimiuri.URI{}, action)
	})
	mux.HandleFunc("GET /v1/user/export", func(w http.ResponseWriter, r *http.Request) {
		h, err := host()
		var u mimiuri.URI
		if err == nil {
			u, err = s.user(r.URL.Query().Get("user"))
		}
		if err != nil {
			fail(w, err)
			return
		}
		out := &late{w: w}
		if err := h.Export(r.Context(), u, out); err != nil {
			if out.began {
				panic(http.ErrAbortHandler) // the client sees that the document is cut
			}
			fail(w, err)
		}
	})
	for name, fn := range map[string]func(context.Context, mimiuri.URI) error{"delete": p.DeleteUser, "forget": p.ForgetUser} {
		post("/v1/user/"+name, func(r *http.Request, q Query) (any, error) {
			u, err := s.user(q.User)
			if err != nil {
				return nil, err
			}
			return struct{}{}, fn(r.Context(), u)
		})
	}
}

// late sets the header with the first octet.
type late struct {
	w     http.ResponseWriter
	began bool
}

func (l *late) Write(b []byte) (int, error) {
	if !l.began {
		l.began = true
		l.w.Header().Set("Content-Type", "application/json")
	}
	return l.w.Write(b)
}
