package matrix

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/fault"
)

// ServeHTTP is the provisioning API: POST {"user": "@alice:example.org", "command": "find wire.example handle al"} gives
// {"answer": "…"}, with the commands that the bot takes outside of MIMI rooms. Whoever serves it has checked that the
// caller may act for all users.
func (a *Adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		User    id.UserID `json:"user"`
		Command string    `json:"command"`
	}
	reply := func(status int, key, text string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{key: text})
	}
	if r.Method != http.MethodPost {
		reply(http.StatusMethodNotAllowed, "error", "send a POST request")
		return
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&body); err != nil || body.User == "" || body.Command == "" {
		reply(http.StatusBadRequest, "error", `the body is {"user": "@alice:example.org", "command": "help"}`)
		return
	}
	b, err := a.bridgeFor(r.Context())
	if err != nil {
		reply(http.StatusServiceUnavailable, "error", "the adapter is not running yet")
		return
	}
	if b.gone.Load() {
		reply(http.StatusConflict, "error", fault.Public(errUninstalled))
		return
	}
	actor, ok := b.person(body.User)
	if !ok {
		reply(http.StatusForbidden, "error", "this user may not use the bridge")
		return
	}
	words := strings.Fields(body.Command)
	if len(words) == 0 {
		words = []string{"help"}
	}
	answer, err := b.command(r.Context(), strings.ToLower(words[0]), call{actor: actor, user: body.User, words: words[1:]})
	if err != nil {
		reply(http.StatusConflict, "error", fault.Public(err))
		return
	}
	reply(http.StatusOK, "answer", answer)
}
