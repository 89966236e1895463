package matrix

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"runtime/debug"
	"strings"

	"maunium.net/go/mautrix/id"
)

// handler serves the application service API (Matrix specification, "Application Service API"), under its
// present paths and the old ones without a prefix.
func (b *bridge) handler() http.Handler {
	mux := http.NewServeMux()
	for _, prefix := range []string{"/_matrix/app/v1", ""} {
		mux.HandleFunc("PUT "+prefix+"/transactions/{txn}", b.putTransaction)
		mux.HandleFunc("GET "+prefix+"/users/{user...}", b.getUser)
		mux.HandleFunc("GET "+prefix+"/rooms/{alias...}", b.getAlias)
	}
	mux.HandleFunc("POST /_matrix/app/v1/ping", b.postPing)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusNotFound, mUnrecognized, "no such endpoint")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				b.log.Error().Str("stack", string(debug.Stack())).Msgf("panic while serving the homeserver: %v", v)
				answer(w, http.StatusInternalServerError, "M_UNKNOWN", "an error in this application service")
			}
		}()
		if !b.authorized(w, r) {
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func answer(w http.ResponseWriter, status int, code, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if code == "" {
		_, _ = io.WriteString(w, "{}")
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"errcode": code, "error": text})
}

// authorized checks the homeserver's token, which comes in the header and, from old homeservers, in the query;
// where it comes twice both must be right. The comparison takes the same time whatever is sent.
func (b *bridge) authorized(w http.ResponseWriter, r *http.Request) bool {
	var given []string
	if h := r.Header.Get("Authorization"); h != "" {
		token, ok := strings.CutPrefix(h, "Bearer ")
		if !ok {
			token = ""
		}
		given = append(given, token)
	}
	if q, ok := r.URL.Query()["access_token"]; ok {
		given = append(given, q...)
	}
	if len(given) == 0 {
		answer(w, http.StatusUnauthorized, mMissingToken, "the homeserver's token is missing")
		return false
	}
	want := sha256.Sum256([]byte(b.reg.HSToken))
	right := 1
	for _, t := range given {
		got := sha256.Sum256([]byte(t))
		right &= subtle.ConstantTimeCompare(got[:], want[:])
	}
	if right != 1 {
		if b.seldom("hs_token") {
			b.log.Warn().Str("from", r.RemoteAddr).
				Str("cure", "if that is the homeserver, give it the same registration file as this adapter has, and restart it").
				Msg("a request with a wrong hs_token was refused")
		}
		answer(w, http.StatusForbidden, mForbidden, "the homeserver's token is wrong")
		return false
	}
	return true
}

// putTransaction stores the events of a transaction. 200 means that they are on disk; everything else makes
// the homeserver send them again, so that only what no repetition can mend is passed over.
func (b *bridge) putTransaction(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, b.cfg.MaxTransaction))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			b.log.Error().Int64("limit", large.Limit).Msg("a transaction is larger than the limit and was refused")
			answer(w, http.StatusRequestEntityTooLarge, mTooLarge, "the transaction is too large")
			return
		}
		answer(w, http.StatusBadRequest, "M_NOT_JSON", "the body could not be read")
		return
	}
	events, passed, err := b.parseTransaction(body)
	if err != nil {
		b.log.Warn().Err(err).Int("octets", len(body)).Msg("a transaction was refused")
		answer(w, http.StatusBadRequest, "M_BAD_JSON", "this is no transaction")
		return
	}
	if passed > 0 {
		b.log.Warn().Int("events", passed).Msg("a transaction held things that are no events; they were passed over")
	}
	if len(events) > 0 && !b.gone.Load() {
		rooms, err := b.st.keep(events)
		if err != nil {
			b.log.Error().Err(err).Msg("a transaction could not be stored; the homeserver will repeat it")
			answer(w, http.StatusInternalServerError, "M_UNKNOWN", "the events could not be stored")
			return
		}
		b.inbox.poke(rooms...)
	}
	answer(w, http.StatusOK, "", "")
}

var errNoTransaction = errors.New("matrix: not a transaction")

// parseTransaction picks the events that have to be carried out. passed counts what is no event at all.
func (b *bridge) parseTransaction(body []byte) (events []incoming, passed int, err error) {
	var raw []json.RawMessage
	var o object
	if tooDeep(body) {
		// One user's event nested beyond reason would make the whole transaction unreadable, and it would come again for
		// ever. The others are cut out from around it.
		raw, err = cutEvents(body)
	} else if o = asObject(body); o == nil || json.Unmarshal(o["events"], &raw) != nil {
		err = errNoTransaction
	}
	if err != nil {
		return nil, 0, err
	}
	for _, one := range raw {
		ev, err := parseEvent(one)
		if err != nil {
			passed++
			continue
		}
		if ev.Type == "m.room.redaction" {
			b.pushedRedactions.Store(true)
		}
		if b.wanted(ev) {
			events = append(events, incoming{id: ev.ID, room: ev.RoomID, body: one})
		}
	}
	events = append(events, b.ephemeral(o)...)
	if b.e2ee != nil && !b.gone.Load() {
		b.e2ee.received(b.inbox.ctx, o)
	}
	return events, passed, nil
}

// cutEvents finds the objects in the array "events" of the outermost object by counting brackets, however deeply they
// are nested. What it cuts out still has to be parsed.
func cutEvents(body []byte) (events []json.RawMessage, err error) {
	var (
		depth, quote, start int
		quoted, inEvents    bool
		key                 string
	)
	for i := 0; i < len(body); i++ {
		c := body[i]
		if quoted {
			switch c {
			case '\\':
				i++
			case '"':
				quoted = false
				if depth == 1 {
					key = string(body[quote+1 : i])
				}
			}
			continue
		}
		switch c {
		case '"':
			quoted, quote = true, i
		case '{', '[':
			if depth++; depth == 2 && c == '[' && key == "events" {
				inEvents, events = true, nil
			} else if depth == 3 && inEvents && c == '{' {
				start = i
			}
		case '}', ']':
			if depth--; depth == 2 && inEvents && c == '}' {
				events = append(events, json.RawMessage(body[start:i+1]))
			} else if depth == 1 {
				inEvents = false
			} else if depth < 0 {
				return nil, errNoTransaction
			}
		}
	}
	if depth != 0 || quoted || events == nil {
		return nil, errNoTransaction
	}
	return events, nil
}

// wanted reports whether there is anything to do about an event: memberships, also our own, and what people say and set.
func (b *bridge) wanted(ev rawEvent) bool {
	if ev.Type == "m.room.member" {
		return ev.StateKey != nil
	}
	if isPolicyRule(ev.Type) {
		return ev.StateKey != nil && !isOurs(ev.Sender, b.server)
	}
	if isState(ev.Type) {
		return ev.StateKey != nil && *ev.StateKey == "" && !isOurs(ev.Sender, b.server)
	}
	return isMessage(ev.Type) && ev.StateKey == nil && !isOurs(ev.Sender, b.server)
}

// getUser makes ghosts exist when the homeserver asks whether they do: a user invites one that nobody has seen yet.
func (b *bridge) getUser(w http.ResponseWriter, r *http.Request) {
	user := id.UserID(r.PathValue("user"))
	if user == b.hs.bot && !b.gone.Load() {
		answer(w, http.StatusOK, "", "")
		return
	}
	b.working.RLock()
	defer b.working.RUnlock()
	uri, ok, err := b.ghostURI(r.Context(), user)
	ok = ok && !b.gone.Load()
	if err == nil && ok {
		_, err = b.ensureGhost(r.Context(), uri)
	}
	switch {
	case err != nil:
		b.log.Warn().Err(err).Str("user", clip(string(user), 255)).Msg("a remote user could not be made")
		answer(w, http.StatusInternalServerError, "M_UNKNOWN", "try again later")
	case !ok:
		answer(w, http.StatusNotFound, mNotFound, "no such user")
	default:
		answer(w, http.StatusOK, "", "")
	}
}

// getAlias makes a portal for an alias that somebody looks up.
func (b *bridge) getAlias(w http.ResponseWriter, r *http.Request) {
	b.working.RLock()
	defer b.working.RUnlock()
	ok, err := false, error(nil)
	if !b.gone.Load() {
		ok, err = b.openAlias(r.Context(), r.PathValue("alias"))
	}
	switch {
	case err != nil:
		b.log.Warn().Err(err).Str("alias", clip(r.PathValue("alias"), 255)).Msg("a room could not be made for an alias")
		answer(w, http.StatusInternalServerError, "M_UNKNOWN", "try again later")
	case !ok:
		answer(w, http.StatusNotFound, mNotFound, "no such room")
	default:
		answer(w, http.StatusOK, "", "")
	}
}

// postPing answers the homeserver's check that it reaches us with the right token (Matrix 1.7).
func (b *bridge) postPing(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 64<<10)); err != nil {
		answer(w, http.StatusRequestEntityTooLarge, mTooLarge, "too large")
		return
	}
	b.log.Info().Msg("the homeserver reaches this application service")
	answer(w, http.StatusOK, "", "")
}
