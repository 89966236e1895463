package matrix

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Taking everything back that this adapter has put on the homeserver: out of one room, or all of it.

// goneKey is the setting that says that Uninstall has begun, with which registration.
const goneKey = "uninstalled"

// errUninstalled answers what is asked of an adapter whose traces have been removed.
var errUninstalled = fault.New(fault.Forbidden, "the bridge to MIMI has been removed from this server")

// bridgeState reports whether a state event of a room says something about the bridge.
func (b *bridge) bridgeState(p portal, ev rawEvent) bool {
	if ev.StateKey == nil || len(asObject(ev.Content)) == 0 {
		return false
	}
	switch ev.Type {
	case "m.bridge", "uk.half-shot.bridge":
		return *ev.StateKey == bridgeKey+"://"+p.uri.String()
	case roomType, "io.element.functional_members":
		return p.own
	case "m.room.canonical_alias":
		return p.own && asObject(ev.Content).str("alias") == b.aliasOf(p)
	}
	return false
}

// aliasOf is the alias of a portal that the bot has made.
func (b *bridge) aliasOf(p portal) string { return "#" + portalAlias(p.uri, b.server) + ":" + b.server }

// emptyRoom takes what the bot has set, and everybody of ours, out of a Matrix room. State of a room cannot be removed; what is left
// of it is empty. It can be called again for the rest.
func (b *bridge) emptyRoom(ctx context.Context, p portal, reason string) error {
	state, err := b.hs.allState(ctx, b.hs.bot, p.room)
	if err != nil && fault.Temporary(err) {
		return err
	}
	for _, ev := range state { // none if the bot is not in the room any more
		if b.bridgeState(p, ev) {
			if err := b.putRoomState(ctx, p, ev.Type, *ev.StateKey, empty{}); err != nil {
				return err
			}
		}
	}
	if p.own {
		if err := b.hs.deleteAlias(ctx, b.aliasOf(p)); err != nil && fault.Temporary(err) {
			return err
		}
	}
	return b.leaveRoom(ctx, p.room, reason)
}

// leaveRoom makes everybody of ours leave a room. The bot goes last: until then it can be asked for the rest.
func (b *bridge) leaveRoom(ctx context.Context, room id.RoomID, reason string) error {
	for _, membership := range []string{"join", "invite"} {
		users, err := b.st.membersOf(ctx, room, membership)
		if err != nil {
			return err
		}
		for _, u := range users {
			if u == b.hs.bot || !isOurs(u, b.server) {
				continue
			}
			if err := b.leaveAs(ctx, room, u, reason); err != nil {
				return err
			}
		}
	}
	return b.leaveAs(ctx, room, b.hs.bot, reason)
}

// removal is one call of Uninstall.
type removal struct {
	b    *bridge
	dry  bool
	tell func(string)
}

func (r *removal) step(format string, args ...any) { r.tell(fmt.Sprintf(format, args...)) }

// Uninstall implements adapter.Uninstaller. What is left on the homeserver is the rooms of its people, without alias, and accounts that
// nobody can use. Steps are taken in an order in which each can be found again after those before it.
func (a *Adapter) Uninstall(ctx context.Context, dryRun bool, progress func(step string)) error {
	b, err := a.bridgeFor(ctx)
	if err != nil {
		return err
	}
	b.uninstall.Lock()
	defer b.uninstall.Unlock()
	if !dryRun {
		if err := b.st.set(goneKey, txnID("gone", b.reg.ASToken)); err != nil {
			return err
		}
		b.gone.Store(true)
		b.working.Lock() // what was being done is done
		b.working.Unlock()
	}
	r := &removal{b: b, dry: dryRun, tell: progress}
	for _, part := range []func(context.Context) error{r.expiring, r.portals, r.rooms, r.accounts, r.rest} {
		if err := part(ctx); err != nil {
			return fmt.Errorf("matrix: uninstall: %w", err)
		}
	}
	return nil
}

// expiring redacts what was to disappear, as nobody will do it later.
func (r *removal) expiring(ctx context.Context) error {
	var n int
	if err := r.b.st.sql.QueryRowContext(ctx, `SELECT COUNT(*) FROM matrix_expiry`).Scan(&n); err != nil || n == 0 {
		return err
	}
	r.step("redact %d messages that were to disappear later", n)
	for !r.dry {
		list, _, err := r.b.st.due(ctx, time.UnixMilli(1<<60))
		if err != nil || len(list) == 0 {
			return err
		}
		for _, e := range list {
			p, ok, err := r.b.st.portal(ctx, e.uri)
			if err == nil && ok && p.room == e.room {
				err = r.b.expireOne(ctx, p, e)
			}
			if err == nil {
				err = r.b.st.expired(e.event)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *removal) portals(ctx context.Context) error {
	uris, err := list[string](ctx, r.b.st.sql, `SELECT room_uri FROM matrix_portal ORDER BY room_uri`)
	if err != nil {
		return err
	}
	for _, text := range uris {
		uri, err := mimiuri.ParseKind(text, mimiuri.Room)
		if err != nil {
			return err
		}
		p, ok, err := r.b.st.portal(ctx, uri)
		if err != nil || !ok {
			return errors.Join(err, ctx.Err())
		}
		if err := r.portal(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (r *removal) portal(ctx context.Context, p portal) error {
	n, err := r.b.st.ghosts(ctx, p.room)
	if err != nil {
		return err
	}
	what := ""
	if p.own {
		what = ", its alias " + r.b.aliasOf(p)
	}
	r.step("room %s (%s): tell its people, remove %d users of the bridge%s and the state about the bridge", p.room, p.uri, n, what)
	if r.dry {
		return nil
	}
	if err := r.b.say(ctx, p.room, "", "uninstalled", "The bridge to MIMI is being removed from this server. What you write here is delivered to nobody elsewhere."); err != nil {
		return err
	}
	return r.b.closePortal(ctx, p)
}

// rooms leaves the other rooms: those in which the bot talks with people, lists of rules, its own.
func (r *removal) rooms(ctx context.Context) error {
	rooms, err := list[id.RoomID](ctx, r.b.st.sql, `SELECT DISTINCT room_id FROM matrix_member WHERE membership IN ('join', 'invite') AND user_id LIKE '@mimi\_%' ESCAPE '\'
		AND room_id NOT IN (SELECT room_id FROM matrix_portal) ORDER BY room_id`)
	if err != nil {
		return err
	}
	if probe, err := r.b.st.setting(ctx, "probe"); err != nil {
		return err
	} else if probe != "" && !slices.Contains(rooms, id.RoomID(probe)) {
		rooms = append(rooms, id.RoomID(probe))
	}
	for _, room := range rooms {
		r.step("room %s: leave it", room)
		if r.dry {
			continue
		}
		if err := r.b.leaveRoom(ctx, room, "the bridge to MIMI is being removed from this server"); err != nil {
			return err
		}
	}
	return nil
}

// accounts takes name and picture from all accounts and deactivates them, where the homeserver lets an application service do that
// (Synapse does).
func (r *removal) accounts(ctx context.Context) error {
	users, err := list[id.UserID](ctx, r.b.st.sql, `SELECT user_id FROM matrix_ghost UNION SELECT SUBSTR(key, 9) FROM matrix_setting WHERE key LIKE 'account %'`)
	if err != nil {
		return err
	}
	users = append(slices.DeleteFunc(users, func(u id.UserID) bool { return u == r.b.hs.bot }), r.b.hs.bot)
	r.step("%d accounts: remove name and picture, deactivate them", len(users))
	if r.dry {
		return nil
	}
	kept := 0
	for i, u := range users {
		if i > 0 && i%500 == 0 {
			r.step("%d accounts are done", i)
		}
		ok, err := r.b.hs.retire(ctx, u)
		if err != nil {
			return err
		}
		if !ok {
			kept++
		}
		if u == r.b.hs.bot {
			break
		}
		// The row is how the account is found, so it goes last.
		if err := r.b.st.all(putSetting(accountKey(u), ""), func(tx *sql.Tx) error {
			_, err := tx.Exec(`DELETE FROM matrix_ghost WHERE user_id = $1`, string(u))
			return err
		}); err != nil {
			return err
		}
	}
	if kept > 0 {
		r.step("%d accounts could not be deactivated, the homeserver does not let an application service do it; they have no name and are in no room", kept)
	}
	return nil
}

// rest empties this adapter's database.
func (r *removal) rest(ctx context.Context) error {
	r.step("empty the adapter's database")
	if r.dry {
		return nil
	}
	if r.b.e2ee != nil {
		if err := r.b.e2ee.clear(ctx); err != nil {
			return err
		}
	}
	return r.b.st.write(func(tx *sql.Tx) error {
		for _, table := range []string{"event", "ghost", "portal", "member", "message", "content", "refused", "topic", "expiry", "read"} {
			if _, err := tx.Exec(`DELETE FROM matrix_` + table); err != nil {
				return fmt.Errorf("matrix: empty the database: %w", err)
			}
		}
		_, err := tx.Exec(`DELETE FROM matrix_setting WHERE key <> $1`, goneKey)
		return err
	})
}

// retire takes a user's name and picture away and deactivates the account. ok is false if that is refused, or there is no such account.
func (h *homeserver) retire(ctx context.Context, user id.UserID) (ok bool, err error) {
	for _, f := range []func(context.Context, id.UserID, string) error{h.setDisplayName, h.setAvatar} {
		if err := f(ctx, user, ""); err != nil && fault.Temporary(err) && errcode(err) != mExclusive {
			return false, err
		}
	}
	err = h.do(ctx, "deactivate "+string(user), http.MethodPost, user, mautrix.ClientURLPath{"v3", "account", "deactivate"}, nil, empty{}, nil)
	var r *refusal
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &r) && r.status/100 == 4 && r.status != http.StatusTooManyRequests && r.code != mUnknownToken && r.code != mMissingToken:
		return false, nil // it asks for a password, or does not know this
	}
	return false, err
}
