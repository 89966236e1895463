package matrix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/fault"
)

// homeserver makes requests to the client-server API as the bot and as ghosts. Its errors are fault errors, sorted into
// those that pass and those that do not. All methods may be called concurrently.
type homeserver struct {
	base  *url.URL
	token string
	name  string // server name
	bot   id.UserID
	asID  string
	http  *http.Client
	media *http.Client // without a limit of time for the whole
	limit atomic.Int64 // of an upload; 0 not known yet, -1 none
}

// maxResponse bounds the body of an answer in octets.
const maxResponse = 32 << 20

// as is a client that acts as one of this application service's users. mautrix retries nothing and logs nothing here:
// retries are decided where the work is, and its log would hold requests.
func (h *homeserver) as(user id.UserID) *mautrix.Client {
	return &mautrix.Client{
		HomeserverURL:       h.base,
		UserID:              user,
		AccessToken:         h.token,
		Client:              h.http,
		UserAgent:           "mimibridge",
		SetAppServiceUserID: true,
		IgnoreRateLimit:     true,
		ResponseSizeLimit:   maxResponse,
		Log:                 zerolog.Nop(),
	}
}

// refusal is an answer of the homeserver that is not a success.
type refusal struct {
	status int    // HTTP
	code   string // errcode, "" if the answer had none
	text   string // error, from the homeserver
}

func (r *refusal) Error() string {
	if r.code == "" {
		return "HTTP " + strconv.Itoa(r.status)
	}
	return r.code + " (" + strconv.Itoa(r.status) + "): " + r.text
}

// errcode is the Matrix error code in err's chain, "" if there is none.
func errcode(err error) string {
	var r *refusal
	if errors.As(err, &r) {
		return r.code
	}
	return ""
}

// definite reports whether the homeserver answered that it did not do what was asked: then it will not
// turn out later to have done it.
func definite(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.code != "" && r.status < 500
}

const (
	mForbidden     = "M_FORBIDDEN"
	mNotFound      = "M_NOT_FOUND"
	mUnrecognized  = "M_UNRECOGNIZED"
	mUserInUse     = "M_USER_IN_USE"
	mRoomInUse     = "M_ROOM_IN_USE"
	mUnknownToken  = "M_UNKNOWN_TOKEN"
	mMissingToken  = "M_MISSING_TOKEN"
	mLimitExceeded = "M_LIMIT_EXCEEDED"
	mTooLarge      = "M_TOO_LARGE"
	mExclusive     = "M_EXCLUSIVE"
	mInvalidToken  = "M_INVALID_TOKEN"
)

// sorted turns an error of mautrix into one of ours.
func sorted(op string, err error) error {
	if err == nil {
		return nil
	}
	var h mautrix.HTTPError
	if !errors.As(err, &h) {
		return fault.Wrap(fault.Unavailable, "the Matrix homeserver cannot be reached now", fmt.Errorf("matrix: %s: %w", op, err))
	}
	if h.Response == nil || h.Response.StatusCode/100 == 2 || h.Response.StatusCode/100 == 3 {
		// No answer, or one that broke off or was not what the specification says.
		cause := h.WrappedError
		if cause == nil {
			cause = errors.New(h.Message)
		}
		return fault.Wrap(fault.Unavailable, "the Matrix homeserver cannot be reached now", fmt.Errorf("matrix: %s: %w", op, cause))
	}
	r := &refusal{status: h.Response.StatusCode}
	if h.RespError != nil {
		r.code, r.text = clip(h.RespError.ErrCode, 100), clip(h.RespError.Err, 300)
	}
	e := &fault.Error{Message: "the Matrix homeserver refused it", Err: fmt.Errorf("matrix: %s: %w", op, r)}
	switch {
	case r.status == http.StatusTooManyRequests || r.code == mLimitExceeded:
		e.Kind, e.Message = fault.Limited, "the Matrix homeserver asks for a pause"
		e.RetryAfter = retryAfter(h)
	case r.status >= 500:
		e.Kind, e.Message = fault.Unavailable, "the Matrix homeserver cannot be reached now"
		e.RetryAfter = retryAfter(h)
	case r.code == "", r.status == http.StatusUnauthorized, r.code == mUnknownToken, r.code == mMissingToken, r.code == mInvalidToken, r.code == mExclusive:
		// Something in between answered, or the homeserver does not know the registration: an administrator
		// can mend either, and nothing should be lost until then.
		e.Kind, e.Message = fault.Unavailable, "the Matrix homeserver cannot be used now"
	case r.status == http.StatusForbidden || r.code == mForbidden:
		e.Kind = fault.Forbidden
	case r.status == http.StatusNotFound || r.code == mNotFound:
		e.Kind = fault.NotFound
	case r.status == http.StatusRequestEntityTooLarge || r.code == mTooLarge:
		e.Kind, e.Message = fault.TooLarge, "it is too large for Matrix"
	default:
		e.Kind = fault.Malformed
	}
	return e
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// retryAfter is the pause a homeserver asks for, between 0 and 10 minutes.
func retryAfter(h mautrix.HTTPError) time.Duration {
	var d time.Duration
	if h.RespError != nil {
		if ms, ok := h.RespError.ExtraData["retry_after_ms"].(float64); ok && ms > 0 && ms < 1e9 {
			d = time.Duration(ms) * time.Millisecond
		}
	}
	if s := h.Response.Header.Get("Retry-After"); d == 0 && s != "" {
		if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 1e6 {
			d = time.Duration(n) * time.Second
		} else if t, err := http.ParseTime(s); err == nil {
			d = max(0, time.Until(t))
		}
	}
	return min(d, 10*time.Minute)
}

func (h *homeserver) do(ctx context.Context, op, method string, as id.UserID, path mautrix.ClientURLPath, query map[string]string, in, out any) error {
	c := h.as(as)
	_, err := c.MakeRequest(ctx, method, c.BuildURLWithQuery(path, query), in, out)
	return sorted(op, err)
}

type empty struct{}

// register makes a ghost's or the bot's account; one that is there already is fine.
func (h *homeserver) register(ctx context.Context, user id.UserID) error {
	err := h.do(ctx, "register "+string(user), http.MethodPost, h.bot, mautrix.ClientURLPath{"v3", "register"}, nil, map[string]any{
		"type": "m.login.application_service", "username": user.Localpart(), "inhibit_login": true,
	}, nil)
	if errcode(err) == mUserInUse {
		return nil
	}
	return err
}

func (h *homeserver) setDisplayName(ctx context.Context, user id.UserID, name string) error {
	return h.do(ctx, "set the name of "+string(user), http.MethodPut, user,
		mautrix.ClientURLPath{"v3", "profile", user, "displayname"}, nil, map[string]string{"displayname": name}, nil)
}

// profile reads a user's profile.
func (h *homeserver) profile(ctx context.Context, user id.UserID, out any) error {
	return h.do(ctx, "look up "+string(user), http.MethodGet, h.bot, mautrix.ClientURLPath{"v3", "profile", user}, nil, nil, out)
}

func (h *homeserver) setAvatar(ctx context.Context, user id.UserID, mxc string) error {
	return h.do(ctx, "set the picture of "+string(user), http.MethodPut, user,
		mautrix.ClientURLPath{"v3", "profile", user, "avatar_url"}, nil, map[string]string{"avatar_url": mxc}, nil)
}

// exists reports whether a user has a profile, which every account has.
func (h *homeserver) exists(ctx context.Context, user id.UserID) (bool, error) {
	err := h.do(ctx, "look up "+string(user), http.MethodGet, h.bot, mautrix.ClientURLPath{"v3", "profile", user}, nil, nil, nil)
	switch {
	case err == nil, errcode(err) == mForbidden: // profiles may be private; an account is likelier than none
		return true, nil
	case errcode(err) == mNotFound:
		return false, nil
	}
	return false, err
}

func (h *homeserver) join(ctx context.Context, as id.UserID, room id.RoomID) error {
	return h.do(ctx, fmt.Sprintf("join %s as %s", room, as), http.MethodPost, as, mautrix.ClientURLPath{"v3", "rooms", room, "join"}, nil, empty{}, nil)
}

func (h *homeserver) leave(ctx context.Context, as id.UserID, room id.RoomID, reason string) error {
	in := map[string]string{}
	if reason != "" {
		in["reason"] = clip(reason, 500)
	}
	return h.do(ctx, fmt.Sprintf("leave %s as %s", room, as), http.MethodPost, as, mautrix.ClientURLPath{"v3", "rooms", room, "leave"}, nil, in, nil)
}

// act is invite, kick, ban or unban.
func (h *homeserver) act(ctx context.Context, what string, as id.UserID, room id.RoomID, user id.UserID, reason string) error {
	in := map[string]string{"user_id": string(user)}
	if reason != "" {
		in["reason"] = clip(reason, 500)
	}
	return h.do(ctx, fmt.Sprintf("%s %s in %s as %s", what, user, room, as), http.MethodPost, as, mautrix.ClientURLPath{"v3", "rooms", room, what}, nil, in, nil)
}

// send sends a message event. The homeserver does the same txn of this application service once. at, if not
// zero, is the event's timestamp, where the homeserver lets application services set it.
func (h *homeserver) send(ctx context.Context, as id.UserID, room id.RoomID, typ, txn string, at time.Time, content any) (id.EventID, error) {
	var out struct {
		EventID id.EventID `json:"event_id"`
	}
	query := map[string]string{}
	if !at.IsZero() {
		query["ts"] = strconv.FormatInt(at.UnixMilli(), 10)
	}
	op := fmt.Sprintf("send to %s as %s", room, as)
	err := h.do(ctx, op, http.MethodPut, as, mautrix.ClientURLPath{"v3", "rooms", room, "send", typ, txn}, query, content, &out)
	if err == nil && out.EventID == "" {
		err = fault.Wrap(fault.Unavailable, "the Matrix homeserver cannot be reached now", fmt.Errorf("matrix: %s: the answer has no event_id", op))
	}
	return out.EventID, err
}

// redact redacts an event; one that is redacted already is fine.
func (h *homeserver) redact(ctx context.Context, as id.UserID, room id.RoomID, target id.EventID, txn, reason string) error {
	in := map[string]string{}
	if reason != "" {
		in["reason"] = clip(reason, 500)
	}
	return h.do(ctx, fmt.Sprintf("redact in %s as %s", room, as), http.MethodPut, as, mautrix.ClientURLPath{"v3", "rooms", room, "redact", target, txn}, nil, in, nil)
}

// receipt says that a user has read up to an event.
func (h *homeserver) receipt(ctx context.Context, as id.UserID, room id.RoomID, event id.EventID) error {
	return h.do(ctx, fmt.Sprintf("mark as read in %s as %s", room, as), http.MethodPost, as, mautrix.ClientURLPath{"v3", "rooms", room, "receipt", "m.read", event}, nil, empty{}, nil)
}

// event reads one event.
func (h *homeserver) event(ctx context.Context, as id.UserID, room id.RoomID, event id.EventID) (ev rawEvent, err error) {
	err = h.do(ctx, fmt.Sprintf("read an event of %s", room), http.MethodGet, as, mautrix.ClientURLPath{"v3", "rooms", room, "event", event}, nil, nil, &ev)
	return ev, err
}

func (h *homeserver) state(ctx context.Context, as id.UserID, room id.RoomID, typ, key string, out any) error {
	return h.do(ctx, fmt.Sprintf("read %s of %s", typ, room), http.MethodGet, as, mautrix.ClientURLPath{"v3", "rooms", room, "state", typ, key}, nil, nil, out)
}

func (h *homeserver) putState(ctx context.Context, as id.UserID, room id.RoomID, typ, key string, content any) error {
	return h.do(ctx, fmt.Sprintf("set %s of %s", typ, room), http.MethodPut, as, mautrix.ClientURLPath{"v3", "rooms", room, "state", typ, key}, nil, content, nil)
}

// allState is the whole current state of a room.
func (h *homeserver) allState(ctx context.Context, as id.UserID, room id.RoomID) ([]rawEvent, error) {
	var out []rawEvent
	err := h.do(ctx, fmt.Sprintf("read the state of %s", room), http.MethodGet, as, mautrix.ClientURLPath{"v3", "rooms", room, "state"}, nil, nil, &out)
	return out, err
}

func (h *homeserver) createRoom(ctx context.Context, in any) (id.RoomID, error) {
	var out struct {
		RoomID id.RoomID `json:"room_id"`
	}
	err := h.do(ctx, "create a room", http.MethodPost, h.bot, mautrix.ClientURLPath{"v3", "createRoom"}, nil, in, &out)
	if err == nil && out.RoomID == "" {
		err = fault.Wrap(fault.Unavailable, "the Matrix homeserver cannot be reached now", errors.New("matrix: create a room: the answer has no room_id"))
	}
	return out.RoomID, err
}

func (h *homeserver) resolveAlias(ctx context.Context, alias string) (id.RoomID, error) {
	var out struct {
		RoomID id.RoomID `json:"room_id"`
	}
	err := h.do(ctx, "look up "+alias, http.MethodGet, h.bot, mautrix.ClientURLPath{"v3", "directory", "room", alias}, nil, nil, &out)
	return out.RoomID, err
}

func (h *homeserver) putAlias(ctx context.Context, alias string, room id.RoomID) error {
	return h.do(ctx, "set "+alias, http.MethodPut, h.bot, mautrix.ClientURLPath{"v3", "directory", "room", alias}, nil, map[string]id.RoomID{"room_id": room}, nil)
}

// deleteAlias removes an alias; one that is not there is fine.
func (h *homeserver) deleteAlias(ctx context.Context, alias string) error {
	err := h.do(ctx, "delete "+alias, http.MethodDelete, h.bot, mautrix.ClientURLPath{"v3", "directory", "room", alias}, nil, nil, nil)
	if errcode(err) == mNotFound {
		return nil
	}
	return err
}

// history is one page of the timeline, newest first, that the user may see. next is "" at the end.
func (h *homeserver) history(ctx context.Context, as id.UserID, room id.RoomID, from string, limit int, filter any) (events []rawEvent, next string, err error) {
	query := map[string]string{"dir": "b", "limit": strconv.Itoa(limit)}
	if from != "" {
		query["from"] = from
	}
	if filter != nil {
		b, err := json.Marshal(filter)
		if err != nil {
			return nil, "", fmt.Errorf("matrix: read the timeline of %s: %w", room, err)
		}
		query["filter"] = string(b)
	}
	var out struct {
		Chunk []rawEvent `json:"chunk"`
		End   string     `json:"end"`
	}
	err = h.do(ctx, fmt.Sprintf("read the timeline of %s", room), http.MethodGet, as, mautrix.ClientURLPath{"v3", "rooms", room, "messages"}, query, nil, &out)
	return out.Chunk, out.End, err
}

func (h *homeserver) joined(ctx context.Context, as id.UserID, room id.RoomID) ([]id.UserID, error) {
	var out struct {
		Joined map[id.UserID]json.RawMessage `json:"joined"`
	}
	err := h.do(ctx, fmt.Sprintf("read the members of %s", room), http.MethodGet, as, mautrix.ClientURLPath{"v3", "rooms", room, "joined_members"}, nil, nil, &out)
	users := make([]id.UserID, 0, len(out.Joined))
	for u := range out.Joined {
		users = append(users, u)
	}
	return users, err
}

func (h *homeserver) versions(ctx context.Context) error {
	var out struct {
		Versions []string `json:"versions"`
	}
	c := h.as(h.bot)
	_, err := c.MakeRequest(ctx, http.MethodGet, c.BuildURL(mautrix.ClientURLPath{"versions"}), nil, &out)
	if err == nil && len(out.Versions) == 0 {
		return fault.New(fault.Unavailable, "what answers there is no Matrix homeserver")
	}
	return sorted("read the versions", err)
}

func (h *homeserver) whoami(ctx context.Context) (id.UserID, error) {
	var out struct {
		UserID id.UserID `json:"user_id"`
	}
	err := h.do(ctx, "ask who the as_token is", http.MethodGet, h.bot, mautrix.ClientURLPath{"v3", "account", "whoami"}, nil, nil, &out)
	return out.UserID, err
}

// ping asks the homeserver to call the adapter's ping endpoint (Matrix 1.7).
func (h *homeserver) ping(ctx context.Context, txn string) error {
	return h.do(ctx, "ask for a ping", http.MethodPost, h.bot, mautrix.ClientURLPath{"v1", "appservice", h.asID, "ping"}, nil, map[string]string{"transaction_id": txn}, nil)
}
