//go:build goolm

package matrix

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"go.mau.fi/util/dbutil"
	"golang.org/x/crypto/chacha20poly1305"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
)

func init() { newEncryption = func(b *bridge) encryption { return newMachines(b) } }

// machines are the Olm machines of the bot and the ghosts. What they know of people's devices they share.
type machines struct {
	b    *bridge
	key  []byte // seals what is stored
	wake chan struct{}

	mu    sync.Mutex
	store *dbutil.Database
	list  map[id.UserID]*crypto.OlmMachine
}

func newMachines(b *bridge) *machines {
	// With the key derived from the token the database alone opens nothing.
	mac := hmac.New(sha256.New, []byte(b.reg.ASToken))
	mac.Write([]byte("mimibridge: keys of Matrix devices"))
	return &machines{b: b, key: mac.Sum(nil), wake: make(chan struct{}, 1), list: map[id.UserID]*crypto.OlmMachine{}}
}

// device is how a user of ours has its device; sealed it is stored in the settings.
type device struct {
	ID    id.DeviceID
	Token string // "" where the application service's token acts for the device (MSC4190)
	Ready bool   // keys are uploaded and signed
}

func (m *machines) seal(plain []byte, user id.UserID) (string, error) {
	aead, err := chacha20poly1305.NewX(m.key)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return "", err
	}
	return base64.RawStdEncoding.EncodeToString(aead.Seal(nonce, nonce, plain, []byte(user))), nil
}

func (m *machines) open(sealed string, user id.UserID) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(m.key)
	if err != nil {
		return nil, err
	}
	b, err := base64.RawStdEncoding.DecodeString(sealed)
	if err != nil || len(b) < aead.NonceSize() {
		return nil, errors.New("matrix: a stored device cannot be read")
	}
	return aead.Open(nil, b[:aead.NonceSize()], b[aead.NonceSize():], []byte(user))
}

func deviceKey(user id.UserID) string { return "device " + string(user) }

func (m *machines) putDevice(user id.UserID, d device) error {
	raw, err := json.Marshal(d)
	if err != nil {
		return err
	}
	sealed, err := m.seal(raw, user)
	if err != nil {
		return err
	}
	return m.b.st.set(deviceKey(user), sealed)
}

// of gives a user's machine, and makes their device if they have none.
func (m *machines) of(ctx context.Context, user id.UserID) (*crypto.OlmMachine, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mach := m.list[user]; mach != nil {
		return mach, nil
	}
	if err := m.openStore(ctx); err != nil {
		return nil, err
	}
	var d device
	sealed, err := m.b.st.setting(ctx, deviceKey(user))
	if err != nil {
		return nil, err
	}
	if sealed != "" {
		// A token that was replaced opens nothing any more: then a new device is made.
		if raw, err := m.open(sealed, user); err != nil || json.Unmarshal(raw, &d) != nil {
			m.b.log.Warn().Str("user", string(user)).Msg("a stored device cannot be opened; another one is made")
			d = device{}
		}
	}
	if d.ID == "" {
		if err := m.dropAccount(ctx, user); err != nil {
			return nil, err
		}
		if d, err = m.newDevice(ctx, user); err != nil {
			return nil, err
		}
		if err := m.putDevice(user, d); err != nil {
			return nil, err
		}
	}
	client := m.b.hs.as(user)
	client.DeviceID = d.ID
	if d.Token != "" {
		client.AccessToken, client.SetAppServiceUserID = d.Token, false
	} else {
		client.SetAppServiceDeviceID = true
	}
	quiet := zerolog.Nop() // its log names keys
	mach := crypto.NewOlmMachine(client, &quiet, crypto.NewSQLCryptoStore(m.store, nil, string(user), d.ID, m.key), stateOf{m.b})
	mach.DontStoreOutboundKeys = true // nobody of ours reads what ours have written
	if err := m.configure(mach); err != nil {
		return nil, err
	}
	if err := mach.Load(ctx); err != nil {
		return nil, fmt.Errorf("matrix: load the keys of %s: %w", user, err)
	}
	if !d.Ready {
		enough := 1000
		if user == m.b.hs.bot {
			enough = 0
		}
		if err := mach.ShareKeys(ctx, enough); err != nil {
			return nil, keyFault("upload the keys of "+string(user), err)
		}
		if err := sign(ctx, mach); err != nil {
			return nil, keyFault("sign the device of "+string(user), err)
		}
		d.Ready = true
		if err := m.putDevice(user, d); err != nil {
			return nil, err
		}
	}
	if user == m.b.hs.bot { // nobody else is sent keys
		if m.b.cfg.Keys.DeleteOutdatedInbound {
			if _, err := mach.CryptoStore.RedactOutdatedGroupSessions(ctx); err != nil {
				return nil, fmt.Errorf("matrix: delete outdated keys: %w", err)
			}
		}
		if m.b.cfg.Keys.PeriodicallyDeleteExpired && m.b.inbox.ctx != nil {
			go mach.ExpiredKeyDeleteLoop(m.b.inbox.ctx)
		}
	}
	m.list[user] = mach
	return mach, nil
}

// configure applies the settings about keys to a machine.
func (m *machines) configure(mach *crypto.OlmMachine) (err error) {
	k := m.b.cfg.Keys
	mach.RatchetKeysOnDecrypt, mach.DeleteFullyUsedKeysOnDecrypt = k.RatchetOnDecrypt, k.DeleteFullyUsedOnDecrypt
	mach.DeletePreviousKeysOnReceive, mach.DeleteKeysOnDeviceDelete = k.DeletePrevOnNewSession, k.DeleteOnDeviceDelete
	mach.DisableDeviceChangeKeyRotation = k.KeepOnDeviceChange
	if mach.SendKeysMinTrust, err = trustOf(k.Send, id.TrustStateUnset); err != nil {
		return err
	}
	if mach.ShareKeysMinTrust, err = trustOf(k.Share, id.TrustStateCrossSignedTOFU); err != nil {
		return err
	}
	mach.AllowKeyShare = func(ctx context.Context, device *id.Device, info event.RequestedKeyInfo) *crypto.KeyShareRejection {
		if !k.AllowSharing {
			return &crypto.KeyShareRejectNoResponse
		}
		if device.Trust == id.TrustStateBlacklisted {
			return &crypto.KeyShareRejectBlacklisted
		}
		if trust, err := mach.ResolveTrustContext(ctx, device); err != nil || trust < mach.ShareKeysMinTrust {
			return &crypto.KeyShareRejectUnverified
		}
		if now, err := m.b.st.member(ctx, info.RoomID, device.UserID); err != nil || now.membership != "join" || m.b.host.Level(string(device.UserID)) < adapter.LevelAdmin {
			return &crypto.KeyShareRejectOtherUser
		}
		return nil
	}
	return nil
}

// sign makes cross-signing keys and signs the device with them. They are not kept: they have nothing else to sign.
func sign(ctx context.Context, mach *crypto.OlmMachine) error {
	keys, err := mach.GenerateCrossSigningKeys()
	if err != nil {
		return err
	}
	if err := mach.PublishCrossSigningKeys(ctx, keys, nil); err != nil {
		return err
	}
	mach.CrossSigningKeys = keys
	if err := mach.SignOwnMasterKey(ctx); err != nil {
		return err
	}
	return mach.SignOwnDevice(ctx, mach.OwnIdentity())
}

// newDevice makes a device: by MSC4190 where the homeserver offers it, else by logging in.
func (m *machines) newDevice(ctx context.Context, user id.UserID) (device, error) {
	var random [6]byte
	if _, err := rand.Read(random[:]); err != nil {
		return device{}, err
	}
	d := device{ID: id.DeviceID(fmt.Sprintf("MIMI%X", random))}
	client := m.b.hs.as(user)
	client.DeviceID = d.ID
	_, err := client.MakeRequest(ctx, http.MethodPut, client.BuildClientURL("v3", "devices", d.ID), map[string]string{"display_name": "MIMI bridge"}, nil)
	if err == nil {
		client.SetAppServiceDeviceID = true
		var who struct {
			Device id.DeviceID `json:"device_id"`
		}
		if _, err = client.MakeRequest(ctx, http.MethodGet, client.BuildClientURL("v3", "account", "whoami"), nil, &who); err == nil && who.Device == d.ID {
			return d, nil
		}
	}
	if err = sorted("make a device", err); err != nil && fault.Temporary(err) && errcode(err) == "" {
		return device{}, err
	}
	var answer struct {
		Token  string      `json:"access_token"`
		Device id.DeviceID `json:"device_id"`
	}
	bot := m.b.hs.as(m.b.hs.bot)
	_, err = bot.MakeRequest(ctx, http.MethodPost, bot.BuildClientURL("v3", "login"), map[string]any{
		"type": "m.login.application_service", "identifier": map[string]any{"type": "m.id.user", "user": user},
		"device_id": d.ID, "initial_device_display_name": "MIMI bridge",
	}, &answer)
	if err != nil {
		return device{}, sorted("log "+string(user)+" in", err)
	}
	if answer.Token == "" || answer.Device == "" {
		return device{}, fault.Wrap(fault.Unavailable, "", errors.New("matrix: log in: the answer has no token"))
	}
	return device{ID: answer.Device, Token: answer.Token}, nil
}

// openStore makes the tables of the keys, once.
func (m *machines) openStore(ctx context.Context) error {
	if m.store != nil {
		return nil
	}
	dialect, version := "postgres", ""
	if err := m.b.host.DB().QueryRowContext(ctx, `SELECT sqlite_version()`).Scan(&version); err == nil {
		dialect = "sqlite3"
	}
	db, err := dbutil.NewWithDB(m.b.host.DB(), dialect)
	if err != nil {
		return fmt.Errorf("matrix: open the keys: %w", err)
	}
	store := crypto.NewSQLCryptoStore(db, nil, "", "", m.key)
	if err := store.DB.Upgrade(ctx); err != nil {
		return fmt.Errorf("matrix: open the keys: %w", err)
	}
	m.store = db
	return nil
}

// dropAccount forgets the keys of a device that is no more.
func (m *machines) dropAccount(ctx context.Context, user id.UserID) error {
	for _, table := range []string{"crypto_account", "crypto_olm_session", "crypto_megolm_outbound_session"} {
		if _, err := m.store.Exec(ctx, `DELETE FROM `+table+` WHERE account_id = $1`, string(user)); err != nil {
			return fmt.Errorf("matrix: forget a device: %w", err)
		}
	}
	return nil
}

func (m *machines) prepare(ctx context.Context) error {
	_, err := m.of(ctx, m.b.hs.bot)
	if err == nil {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
	return err
}

// keySync asks for nothing but keys and changes of devices.
const keySync = `{"room":{"timeline":{"limit":1,"types":[]},"state":{"types":[],"lazy_load_members":true},"ephemeral":{"types":[]},"account_data":{"types":[]}},` +
	`"presence":{"types":[]},"account_data":{"types":[]}}`

func (m *machines) run(ctx context.Context) {
	if m.b.gone.Load() {
		return
	}
	var rooms int
	if err := m.b.st.sql.QueryRowContext(ctx, `SELECT COUNT(*) FROM matrix_setting WHERE key LIKE 'encrypted %'`).Scan(&rooms); err != nil || rooms == 0 {
		select {
		case <-m.wake:
		case <-ctx.Done():
			return
		}
	}
	for range 50 {
		if m.b.pushes() || !pause(ctx, 100*time.Millisecond) {
			break
		}
	}
	// What pushes receipts and redactions pushes keys as well.
	for failures := 0; ctx.Err() == nil && !m.b.pushes() && !m.b.gone.Load(); {
		if err := m.receive(ctx); err != nil {
			if ctx.Err() == nil && m.b.seldom("keys") {
				m.b.log.Warn().Err(err).Msg("keys could not be received; trying again")
			}
			failures++
			pause(ctx, min(200*time.Millisecond<<min(failures, 8), 30*time.Second))
			continue
		}
		failures = 0
	}
}

// received implements encryption, for homeservers that push (MSC2409, MSC3202): Synapse, whose /sync is not for application services.
func (m *machines) received(ctx context.Context, transaction object) {
	var pushed []json.RawMessage
	_ = unmarshal(transaction["de.sorunome.msc2409.to_device"], &pushed)
	var lists mautrix.DeviceLists
	hasLists := unmarshal(transaction["org.matrix.msc3202.device_lists"], &lists) == nil && len(lists.Changed)+len(lists.Left) > 0
	var counts map[id.UserID]map[id.DeviceID]mautrix.OTKCount
	hasCounts := unmarshal(transaction["org.matrix.msc3202.device_one_time_keys_count"], &counts) == nil && counts[m.b.hs.bot] != nil
	if len(pushed) == 0 && !hasLists && !hasCounts {
		return
	}
	m.mu.Lock()
	used := m.store != nil
	m.mu.Unlock()
	if !used && len(pushed) == 0 {
		return // nobody encrypts here
	}
	mach, err := m.of(ctx, m.b.hs.bot)
	if err != nil {
		m.b.log.Warn().Err(err).Msg("keys could not be received")
		return
	}
	if hasLists {
		mach.HandleDeviceLists(ctx, &lists, "pushed")
		if err := m.devicesChanged(ctx, lists.Changed); err != nil {
			m.b.log.Warn().Err(err).Msg("a change of devices could not be stored")
		}
	}
	for _, raw := range pushed {
		o := asObject(raw)
		if id.UserID(o.str("to_user_id")) != m.b.hs.bot || id.DeviceID(o.str("to_device_id")) != mach.Client.DeviceID || tooDeep(raw) {
			continue
		}
		var ev event.Event
		if json.Unmarshal(raw, &ev) != nil {
			continue
		}
		ev.Type.Class = event.ToDeviceEventType
		if ev.Content.ParseRaw(ev.Type) == nil {
			mach.HandleToDeviceEvent(ctx, &ev)
		}
	}
	if count, ok := counts[m.b.hs.bot][mach.Client.DeviceID]; ok {
		mach.HandleOTKCounts(ctx, &count)
	}
}

// devicesChanged makes new keys necessary in the rooms of users whose devices have changed.
func (m *machines) devicesChanged(ctx context.Context, users []id.UserID) error {
	if m.b.cfg.Keys.KeepOnDeviceChange {
		return nil
	}
	for _, user := range users {
		shared, err := stateOf{m.b}.FindSharedRooms(ctx, user)
		if err != nil {
			return err
		}
		for _, room := range shared {
			if err := m.changed(ctx, room); err != nil {
				return err
			}
		}
	}
	return nil
}

// receive asks once for new keys.
func (m *machines) receive(ctx context.Context) error {
	mach, err := m.of(ctx, m.b.hs.bot)
	if err != nil {
		return err
	}
	since, err := m.b.st.setting(ctx, "sync keys")
	if err != nil {
		return err
	}
	query := map[string]string{"filter": keySync, "timeout": fmt.Sprint(syncTime.Milliseconds())}
	if since == "" {
		query["timeout"] = "0"
	} else {
		query["since"] = since
	}
	var resp mautrix.RespSync
	if _, err := mach.Client.MakeRequest(ctx, http.MethodGet, mach.Client.BuildURLWithQuery(mautrix.ClientURLPath{"v3", "sync"}, query), nil, &resp); err != nil {
		return sorted("sync", err)
	}
	mach.ProcessSyncResponse(ctx, &resp, since)
	if err := m.devicesChanged(ctx, resp.DeviceLists.Changed); err != nil {
		return err
	}
	if resp.NextBatch == "" || resp.NextBatch == since {
		return nil
	}
	return m.b.st.set("sync keys", resp.NextBatch)
}

// erase implements encryption.
func (m *machines) erase(ctx context.Context, user id.UserID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.openStore(ctx); err != nil {
		return err
	}
	const theirs = `(SELECT identity_key FROM crypto_device WHERE user_id = $1)`
	// Their devices go last, by which the rest is found.
	for _, query := range []string{
		`DELETE FROM crypto_message_index WHERE session_id IN (SELECT session_id FROM crypto_megolm_inbound_session WHERE sender_key IN ` + theirs + `)`,
		`DELETE FROM crypto_megolm_inbound_session WHERE source_user = $1 OR sender_key IN ` + theirs,
		`DELETE FROM crypto_olm_session WHERE sender_key IN ` + theirs,
		`DELETE FROM crypto_megolm_outbound_session_shared WHERE user_id = $1`,
		`DELETE FROM crypto_cross_signing_signatures WHERE signed_user_id = $1 OR signer_user_id = $1`,
		`DELETE FROM crypto_cross_signing_keys WHERE user_id = $1`,
		`DELETE FROM crypto_tracked_user WHERE user_id = $1`,
		`DELETE FROM crypto_device WHERE user_id = $1`,
	} {
		if _, err := m.store.Exec(ctx, query, string(user)); err != nil {
			return fmt.Errorf("matrix: erase a user's keys: %w", err)
		}
	}
	return nil
}

// clear implements encryption.
func (m *machines) clear(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.openStore(ctx); err != nil {
		return err
	}
	m.list = map[id.UserID]*crypto.OlmMachine{}
	for _, table := range []string{"message_index", "megolm_inbound_session", "megolm_outbound_session", "megolm_outbound_session_shared", "olm_session",
		"olm_message_hash", "cross_signing_signatures", "cross_signing_keys", "secrets", "tracked_user", "device", "account"} {
		if _, err := m.store.Exec(ctx, `DELETE FROM crypto_`+table); err != nil {
			return fmt.Errorf("matrix: forget all keys: %w", err)
		}
	}
	return nil
}

func (m *machines) changed(ctx context.Context, room id.RoomID) error {
	m.mu.Lock()
	store := m.store
	m.mu.Unlock()
	if store == nil {
		return nil
	}
	if _, err := store.Exec(ctx, `DELETE FROM crypto_megolm_outbound_session WHERE room_id = $1`, string(room)); err != nil {
		return fmt.Errorf("matrix: forget a room's keys: %w", err)
	}
	return nil
}

func (m *machines) encrypt(ctx context.Context, as id.UserID, room id.RoomID, typ string, body map[string]any) (map[string]any, error) {
	m.mu.Lock()
	first := m.list[as] == nil
	m.mu.Unlock()
	mach, err := m.of(ctx, as)
	if err != nil {
		return nil, err
	}
	if first {
		if err := m.b.countDevices(ctx, room); err != nil {
			return nil, err
		}
	}
	kind := event.Type{Type: typ, Class: event.MessageEventType}
	sealed, err := mach.EncryptMegolmEvent(ctx, room, kind, body)
	if crypto.IsShareError(err) {
		users, errUsers := m.readers(ctx, as, room)
		if errUsers != nil {
			return nil, errUsers
		}
		if err := mach.ShareGroupSession(ctx, room, users); err != nil {
			return nil, keyFault("share keys in "+string(room), err)
		}
		sealed, err = mach.EncryptMegolmEvent(ctx, room, kind, body)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "", fmt.Errorf("matrix: encrypt for %s: %w", room, err))
	}
	raw, err := json.Marshal(sealed)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	return out, json.Unmarshal(raw, &out)
}

// readers are the people in a room, who have to be able to read what is written there.
func (m *machines) readers(ctx context.Context, as id.UserID, room id.RoomID) ([]id.UserID, error) {
	joined, err := m.b.hs.joined(ctx, as, room)
	if err != nil {
		return nil, err
	}
	var invited []id.UserID
	if m.invitedRead(ctx, as, room) {
		if invited, err = m.b.st.membersOf(ctx, room, "invite"); err != nil {
			return nil, err
		}
	}
	var out []id.UserID
	for _, u := range append(joined, invited...) {
		if !isOurs(u, m.b.server) {
			out = append(out, u)
		}
	}
	return out, nil
}

// invitedRead reports whether who is invited may read already what is said, by the room's history visibility.
func (m *machines) invitedRead(ctx context.Context, as id.UserID, room id.RoomID) bool {
	var now struct {
		Visibility string `json:"history_visibility"`
	}
	return m.b.hs.state(ctx, as, room, "m.room.history_visibility", "", &now) != nil || now.Visibility != "joined"
}

// keyWait is how long a message waits for its key, which is sent on another way.
const keyWait = 10 * time.Second

func (m *machines) decrypt(ctx context.Context, ev rawEvent) (string, json.RawMessage, error) {
	mach, err := m.of(ctx, m.b.hs.bot)
	if err != nil {
		return "", nil, err
	}
	var in event.Event
	if err := json.Unmarshal(ev.marshal(), &in); err != nil {
		return "", nil, fmt.Errorf("%w: %w", errUndecryptable, err)
	}
	in.Type.Class = event.MessageEventType
	if err := in.Content.ParseRaw(in.Type); err != nil {
		return "", nil, fmt.Errorf("%w: %w", errUndecryptable, err)
	}
	out, err := mach.DecryptMegolmEvent(ctx, &in)
	if errors.Is(err, crypto.ErrNoSessionFound) {
		c := in.Content.AsEncrypted()
		if mach.WaitForSession(ctx, in.RoomID, c.SenderKey, c.SessionID, keyWait) {
			out, err = mach.DecryptMegolmEvent(ctx, &in)
		}
	}
	if ctx.Err() != nil {
		return "", nil, ctx.Err()
	}
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", errUndecryptable, err)
	}
	least, err := trustOf(m.b.cfg.Keys.Receive, id.TrustStateUnset)
	if err != nil || out.Mautrix.TrustState < least {
		return "", nil, errUntrusted
	}
	body := out.Content.VeryRaw
	if out.Content.Raw != nil {
		if body, err = json.Marshal(out.Content.Raw); err != nil {
			return "", nil, fmt.Errorf("%w: %w", errUndecryptable, err)
		}
	}
	return out.Type.Type, body, nil
}

// stateOf tells the machines what they want to know of rooms.
type stateOf struct{ b *bridge }

func (s stateOf) IsEncrypted(ctx context.Context, room id.RoomID) (bool, error) {
	return s.b.encryptedRoom(ctx, room)
}

func (s stateOf) GetEncryptionEvent(ctx context.Context, room id.RoomID) (*event.EncryptionEventContent, error) {
	stored, err := s.b.st.setting(ctx, encryptedKey(room))
	if err != nil || stored == "" {
		return nil, err
	}
	var c event.EncryptionEventContent
	if json.Unmarshal([]byte(stored), &c) != nil {
		return nil, nil
	}
	return &c, nil
}

func (s stateOf) GetHistoryVisibility(context.Context, id.RoomID) (*event.HistoryVisibilityEventContent, error) {
	return &event.HistoryVisibilityEventContent{HistoryVisibility: event.HistoryVisibilityJoined}, nil
}

func (s stateOf) FindSharedRooms(ctx context.Context, user id.UserID) ([]id.RoomID, error) {
	return list[id.RoomID](ctx, s.b.st.sql, `SELECT room_id FROM matrix_member WHERE user_id = $1 AND membership IN ('join', 'invite')
		AND EXISTS (SELECT 1 FROM matrix_setting WHERE key = 'encrypted ' || room_id)`, string(user))
}
