package matrix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
)

// Encrypted rooms. The bot reads them, with a device of its own; each ghost writes with a device of its own,
// which its own cross-signing keys have signed, so that clients show no warning. A ghost's device is made when it first
// speaks in an encrypted room. Nobody of ours needs one-time keys but the bot: ghosts are sent nothing that they would read.

// encryption is what encrypted rooms need. The implementation needs a library with a build tag (goolm); without it
// there is none.
type encryption interface {
	// prepare makes the bot's device, so that people's clients share their keys with it.
	prepare(ctx context.Context) error
	// received takes what a transaction brings for the bot's device: keys, changes of devices, how many one-time keys are left.
	received(ctx context.Context, transaction object)
	// run receives keys and changes of devices until ctx ends.
	run(ctx context.Context)
	// encrypt gives the content of the m.room.encrypted event that says body.
	encrypt(ctx context.Context, as id.UserID, room id.RoomID, typ string, body map[string]any) (map[string]any, error)
	// decrypt gives type and content of what an m.room.encrypted event says. errUndecryptable: it cannot be read, ever.
	decrypt(ctx context.Context, ev rawEvent) (typ string, body json.RawMessage, err error)
	// changed makes everybody use new keys for a room: somebody has come or gone.
	changed(ctx context.Context, room id.RoomID) error
	// erase forgets all keys and devices of a person.
	erase(ctx context.Context, user id.UserID) error
	// clear forgets all keys.
	clear(ctx context.Context) error
}

// newEncryption makes the implementation; nil in a build without it.
var newEncryption func(b *bridge) encryption

var (
	errUndecryptable = errors.New("matrix: an event cannot be decrypted")
	errUntrusted     = errors.New("matrix: an event is from a device that is not trusted enough")
)

// What Config.Encryption can be.
const (
	encryptionOff     = "off"     // encrypted rooms cannot be read
	encryptionAllowed = "allowed" // rooms that people have encrypted are
	encryptionDefault = "default" // portals of the bot's are encrypted from the beginning
)

// encryptionEvent is the content of m.room.encryption in a room that the bot encrypts.
func (b *bridge) encryptionEvent() map[string]any {
	body := map[string]any{"algorithm": "m.megolm.v1.aes-sha2"}
	if d := b.cfg.Keys.RotateAfter; d > 0 {
		body["rotation_period_ms"] = d.Milliseconds()
	}
	if n := b.cfg.Keys.RotateMessages; n > 0 {
		body["rotation_period_msgs"] = n
	}
	return body
}

func encryptedKey(room id.RoomID) string { return "encrypted " + string(room) }

// encryptedRoom reports whether what is sent to a room has to be encrypted.
func (b *bridge) encryptedRoom(ctx context.Context, room id.RoomID) (bool, error) {
	if b.e2ee == nil {
		return false, nil
	}
	if v, ok := b.encrypted.Load(room); ok {
		return v.(bool), nil
	}
	v, err := b.st.setting(ctx, encryptedKey(room))
	if err == nil {
		b.encrypted.Store(room, v != "")
	}
	return v != "", err
}

// setEncrypted remembers that a room is encrypted, which lasts for ever.
func (b *bridge) setEncrypted(ctx context.Context, room id.RoomID, body object) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	if err := b.st.set(encryptedKey(room), string(raw)); err != nil {
		return err
	}
	b.encrypted.Store(room, true)
	if b.e2ee == nil {
		return nil
	}
	return b.e2ee.prepare(ctx)
}

// onEncryption begins to encrypt in a room.
func (b *bridge) onEncryption(ctx context.Context, ev rawEvent, body object) error {
	if err := b.setEncrypted(ctx, ev.RoomID, body); err != nil {
		return err
	}
	p, ok, err := b.st.portalAt(ctx, ev.RoomID)
	if err != nil || !ok || !p.admitted {
		return err
	}
	return b.sayEncrypted(ctx, p)
}

// sayEncrypted tells people what their encryption is worth, or that it is not supported.
func (b *bridge) sayEncrypted(ctx context.Context, p portal) error {
	if b.e2ee == nil {
		return b.say(ctx, p.room, "", "encrypted", "This Matrix room is encrypted, and this bridge does not read encrypted rooms: what you write here will not be delivered. Use a room without encryption; between providers MIMI encrypts.")
	}
	return b.say(ctx, p.room, "", "encrypted", "This room is encrypted up to the bridge of "+b.domain+". Verifying a user from elsewhere here verifies that bridge, not the person.")
}

// sendEvent sends an event, encrypted where the room is.
func (b *bridge) sendEvent(ctx context.Context, as id.UserID, room id.RoomID, typ, txn string, at time.Time, body map[string]any) (id.EventID, error) {
	encrypt, err := b.encryptedRoom(ctx, room)
	if err != nil {
		return "", err
	}
	if !encrypt || typ == "m.reaction" {
		return b.hs.send(ctx, as, room, typ, txn, at, body)
	}
	sealed, err := b.e2ee.encrypt(ctx, as, room, typ, body)
	if err != nil {
		return "", err
	}
	if mark, ok := body[markField]; ok {
		sealed[markField] = mark // by which it is found again
	}
	return b.hs.send(ctx, as, room, "m.room.encrypted", txn, at, sealed)
}

// opened is an event as it was before it was encrypted. why, if not empty, says that it cannot be read.
func (b *bridge) opened(ctx context.Context, ev rawEvent) (out rawEvent, why string, err error) {
	if b.e2ee == nil {
		return ev, "Not delivered: this message is encrypted, and this bridge does not read encrypted rooms. Use a room without encryption; between providers MIMI encrypts.", nil
	}
	typ, body, err := b.e2ee.decrypt(ctx, ev)
	switch {
	case errors.Is(err, errUntrusted):
		return ev, "Not delivered: this device is not verified, and the bridge takes messages of verified devices only. Verify this session in your app's settings.", nil
	case errors.Is(err, errUndecryptable):
		b.log.Info().Err(err).Str("matrix_room", string(ev.RoomID)).Str("event", string(ev.ID)).Msg("an event could not be decrypted")
		return ev, "Not delivered: this message could not be decrypted by the bridge. Send it again.", nil
	case err != nil:
		return ev, "", err
	case len(body) > maxEvent || tooDeep(body) || typ == "m.room.encrypted":
		return ev, "Not delivered: this message could not be read.", nil
	}
	ev.Type, ev.Content = typ, body
	return ev, "", nil
}

// tellAdmins tells the admins of this provider who have a room with the bot, once for each key.
func (b *bridge) tellAdmins(ctx context.Context, key, text string) error {
	keys, err := list[string](ctx, b.st.sql, `SELECT key FROM matrix_setting WHERE key LIKE 'management %' ORDER BY key`)
	if err != nil {
		return err
	}
	for _, k := range keys {
		user := id.UserID(strings.TrimPrefix(k, managementKey("")))
		if b.host.Level(string(user)) < adapter.LevelAdmin {
			continue
		}
		room, err := b.management(ctx, user)
		if err != nil {
			return err
		}
		if err := b.say(ctx, room, "", key, text); err != nil {
			return err
		}
	}
	return nil
}

// countDevices tells the admins when the ghosts of an encrypted room have so many devices that people's clients feel it.
func (b *bridge) countDevices(ctx context.Context, room id.RoomID) error {
	var n int
	if err := b.st.sql.QueryRowContext(ctx, `SELECT COUNT(*) FROM matrix_member WHERE room_id = $1 AND membership = 'join' AND 'device ' || user_id IN
		(SELECT key FROM matrix_setting WHERE key LIKE 'device %')`, string(room)).Scan(&n); err != nil {
		return fmt.Errorf("matrix: count devices: %w", err)
	}
	if n <= b.cfg.Keys.WarnDevices {
		return nil
	}
	key := "devices told " + string(room)
	if told, err := b.st.setting(ctx, key); err != nil || told != "" {
		return err
	}
	b.log.Warn().Str("matrix_room", string(room)).Int("devices", n).Str("cure", "move the room to one without encryption on Matrix, or leave it at that: delete_keys and rotation do not change the number").
		Msg("an encrypted room has many devices of ghosts; the first message after each change is slow in people's apps")
	if err := b.tellAdmins(ctx, key, fmt.Sprintf("The encrypted room %s has %d devices of users from elsewhere: the first message after each change of members is slow in people's apps.", room, n)); err != nil {
		return err
	}
	return b.st.set(key, strconv.Itoa(n))
}

// keyFault sorts an error of encrypting: nearly all are the homeserver's, and pass.
func keyFault(op string, err error) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) {
		return err
	}
	return sorted(op, err)
}
