package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/client"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
)

const (
	// deletionPatience is how long rooms have to see that a user is gone before everything is erased all the same: a hub may be
	// gone, too.
	deletionPatience = 30 * 24 * time.Hour
	// deletionHurry is the same for a user who is to be forgotten now, and for everybody when the provider is uninstalled in a hurry.
	deletionHurry = time.Minute
	deletionTick  = 2 * time.Second
	deletionRetry = time.Minute // after a step that failed
	// deletionAdapter is the name that the leaving of rooms has as its origin; no adapter has it.
	deletionAdapter = "deletion"
)

var errDeleting = fault.New(fault.Forbidden, "the account of this name is being deleted")

// deletions removes users. What is to be done stands in the database, each step can be done again, and so it goes on after
// a crash: consent is taken back and what is unfinished dropped; all rooms are left; when no group has a client of the
// user any more, or after deletionPatience, adapters erase what they have and rows and files go.
type deletions struct {
	p    *Provider
	wake chan struct{} // capacity 1

	mu    sync.RWMutex
	users map[string]bool
	all   bool // the provider is being uninstalled
}

func newDeletions(p *Provider) *deletions {
	return &deletions{p: p, wake: make(chan struct{}, 1), users: map[string]bool{}}
}

// has reports whether a user is being deleted: they can do nothing any more, and others find nobody.
func (d *deletions) has(user mimiuri.URI) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.all || len(d.users) > 0 && d.users[user.String()]
}

// everybody has everybody be somebody who is being deleted.
func (d *deletions) everybody() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = true
}

func (d *deletions) load(ctx context.Context) ([]store.Deletion, error) {
	var ds []store.Deletion
	if err := d.p.store.View(ctx, func(tx *store.Tx) (err error) {
		ds, err = tx.Deletions()
		return err
	}); err != nil {
		return nil, err
	}
	users := map[string]bool{}
	for _, x := range ds {
		users[x.User] = true
	}
	d.mu.Lock()
	d.users = users
	d.mu.Unlock()
	return ds, nil
}

func (d *deletions) run(ctx context.Context) error {
	begun := map[string]bool{}      // steps that were done since the start
	again := map[string]time.Time{} // after a failure
	for {
		ds, err := d.load(ctx)
		if err != nil && ctx.Err() == nil {
			d.p.cfg.Log.Error().Err(err).Msg("reading which users are to be deleted")
		}
		for _, x := range ds {
			if time.Now().Before(again[x.User]) {
				continue
			}
			done, err := d.step(ctx, x, begun)
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil:
				again[x.User] = time.Now().Add(deletionRetry)
				d.p.cfg.Log.Warn().Err(err).Str("user", x.User).Msg("deleting a user did not get on; it is tried again")
			case done:
				delete(begun, x.User)
				d.p.cfg.Log.Info().Str("user", x.User).Msg("a user was deleted")
			}
		}
		var tick <-chan time.Time
		if len(ds) > 0 || d.p.store.Shared() {
			tick = time.After(deletionTick)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		case <-tick:
		}
	}
}

// step does what can be done now.
func (d *deletions) step(ctx context.Context, x store.Deletion, begun map[string]bool) (done bool, err error) {
	p := d.p
	user, err := mimiuri.ParseKind(x.User, mimiuri.User)
	if err != nil {
		return false, err
	}
	if !begun[x.User] {
		if err := d.withdraw(ctx, user); err != nil {
			return false, err
		}
		begun[x.User] = true
	}
	rooms, err := p.Client.RoomsOf(ctx, user)
	if err != nil {
		return false, err
	}
	var open []string
	if err := p.store.Update(ctx, func(tx *store.Tx) error {
		for _, r := range rooms {
			if err := tx.PutDeletionRoom(x.User, r.String()); err != nil {
				return err
			}
		}
		var err error
		open, err = tx.DeletionRooms(x.User, true)
		return err
	}); err != nil {
		return false, err
	}
	for _, r := range rooms { // once: the same origin again is nothing new
		err := p.Client.Intake(ctx, deletionAdapter, adapter.Intent{Kind: adapter.LeaveRoom, Room: r, Actor: user, OriginID: fmt.Sprintf("deletion-%d", x.Started)})
		if err != nil && fault.Temporary(err) {
			return false, err
		}
	}
	patience := deletionPatience
	if x.Hurried {
		patience = deletionHurry
	}
	late := p.cfg.Now().Sub(time.UnixMilli(x.Started)) >= patience
	left := 0
	for _, id := range open {
		room, err := mimiuri.ParseKind(id, mimiuri.Room)
		if err != nil {
			return false, err
		}
		in := true // another node says when it is not
		if p.store.Mine(id) {
			if in, err = p.Client.Involved(ctx, room, user); err != nil {
				return false, err
			}
		}
		if in {
			left++
			continue
		}
		if err := p.store.Update(ctx, func(tx *store.Tx) error { return tx.EndDeletionRoom(x.User, id) }); err != nil {
			return false, err
		}
	}
	if left > 0 && !late {
		return false, nil
	}
	return true, d.erase(ctx, user)
}

// withdraw takes back what the user lets others do, and drops what they wanted.
func (d *deletions) withdraw(ctx context.Context, user mimiuri.URI) error {
	p := d.p
	id := user.String()
	if err := p.store.Update(ctx, func(tx *store.Tx) error {
		return errors.Join(tx.CancelIntents(id, deletionAdapter), tx.DeleteKeyPackages(id))
	}); err != nil {
		return err
	}
	contacts, err := p.People.Contacts(ctx, user)
	if err != nil {
		return err
	}
	for _, c := range contacts {
		action := adapter.ForgetConsent
		if c.Grants == adapter.ConsentGranted || c.Grants == adapter.ConsentAsked {
			action = adapter.RefuseConsent
		}
		if err := p.People.Consent(ctx, user, c.User, c.Room, action); err != nil && fault.Temporary(err) {
			return err
		}
	}
	blocked, err := p.People.Blocked(ctx, user)
	if err != nil {
		return err
	}
	for _, b := range blocked {
		if err := p.People.Unblock(ctx, user, b); err != nil && fault.Temporary(err) {
			return err
		}
	}
	if err := p.People.SetProfile(ctx, user, adapter.Profile{User: user}); err != nil && fault.Temporary(err) {
		return err
	}
	return nil
}

// erase is the last step: adapters first, since their rows cannot go in the same transaction as the core's.
func (d *deletions) erase(ctx context.Context, user mimiuri.URI) error {
	p := d.p
	for _, h := range p.hosts {
		if e, ok := h.adapter.(adapter.Eraser); ok {
			if err := e.EraseUser(ctx, user); err != nil {
				return fmt.Errorf("core: adapter %s: %w", h.adapter.Name(), err)
			}
		}
	}
	if err := p.files.own.DeleteUser(ctx, user.String()); err != nil {
		return err
	}
	var rooms []string
	if err := p.store.View(ctx, func(tx *store.Tx) (err error) {
		rooms, err = tx.EventRooms()
		return err
	}); err != nil {
		return err
	}
	for _, r := range rooms {
		if err := p.Client.EraseEvents(ctx, r, user); err != nil {
			return err
		}
	}
	if err := p.store.Update(ctx, func(tx *store.Tx) error { return tx.EraseUser(user.String()) }); err != nil {
		return err
	}
	_, err := d.load(ctx)
	return err
}

// DeleteUser begins the removal of a local user; it goes on in the background and over restarts. Until it has ended, nobody
// can act as the user and they are not to be found. Again is no error.
func (p *Provider) DeleteUser(ctx context.Context, user mimiuri.URI) error {
	return p.deleteUsers(ctx, false, user)
}

// ForgetUser is DeleteUser in a hurry, also for a removal that is under way: hubs that cannot be reached have a minute to see the
// user leave; then everything is erased all the same.
func (p *Provider) ForgetUser(ctx context.Context, user mimiuri.URI) error {
	return p.deleteUsers(ctx, true, user)
}

func (p *Provider) deleteUsers(ctx context.Context, hurry bool, users ...mimiuri.URI) error {
	for _, user := range users {
		if user.Kind != mimiuri.User || user.Domain != p.cfg.Domain {
			return fault.New(fault.Forbidden, "only users of this provider can be deleted here")
		}
	}
	if err := p.store.Update(ctx, func(tx *store.Tx) error {
		for _, user := range users {
			if err := tx.InsertDeletion(&store.Deletion{User: user.String(), Started: p.cfg.Now().UnixMilli()}); err != nil {
				return err
			}
			if hurry {
				if err := tx.HurryDeletion(user.String()); err != nil {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if _, err := p.deletions.load(ctx); err != nil {
		return err
	}
	select {
	case p.deletions.wake <- struct{}{}:
	default:
	}
	return nil
}

// Deleting lists the users whose removal is under way.
func (p *Provider) Deleting(ctx context.Context) ([]mimiuri.URI, error) {
	ds, err := p.deletions.load(ctx)
	if err != nil {
		return nil, err
	}
	var us []mimiuri.URI
	for _, d := range ds {
		u, err := mimiuri.ParseKind(d.User, mimiuri.User)
		if err != nil {
			return nil, err
		}
		us = append(us, u)
	}
	return us, nil
}

// DeleteUser is adapter.People.DeleteUser.
func (h *host) DeleteUser(ctx context.Context, local mimiuri.URI) error {
	return h.p.DeleteUser(ctx, local)
}

// export is the document that Export writes, beside the messages.
type export struct {
	User     string                 `json:"user"`
	Time     time.Time              `json:"time"`
	Provider string                 `json:"provider"`
	Client   *client.ExportedClient `json:"client,omitempty"`
	Consent  struct {
		Policy   string          `json:"policy"`
		Contacts []exportContact `json:"contacts"`
	} `json:"consent"`
	Profile adapter.Profile `json:"profile"`
	Blocked []string        `json:"blocked"`
	Files   []exportFile    `json:"files"`
}

type exportContact struct {
	User    string    `json:"user"`
	Room    string    `json:"room,omitempty"`
	Grants  uint8     `json:"grants"`
	Granted uint8     `json:"granted"`
	Since   time.Time `json:"since"`
}

type exportFile struct {
	URL     string     `json:"url"`
	Octets  int64      `json:"octets"`
	Type    string     `json:"type,omitempty"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"`
}

type exportRoom struct {
	Room     string                   `json:"room"`
	Name     string                   `json:"name,omitempty"`
	Role     string                   `json:"role,omitempty"`
	Member   bool                     `json:"member"`
	Messages []client.ExportedMessage `json:"messages"`
}

// Export is adapter.People.Export. It writes while it reads: memory is bounded by the largest room.
func (h *host) Export(ctx context.Context, local mimiuri.URI, w io.Writer) error {
	return h.p.Export(ctx, local, w)
}

// Export writes what is stored of a local user as a JSON document.
func (p *Provider) Export(ctx context.Context, user mimiuri.URI, w io.Writer) error {
	if user.Kind != mimiuri.User || user.Domain != p.cfg.Domain {
		return fault.New(fault.Forbidden, "only users of this provider can be exported here")
	}
	doc := export{User: user.String(), Time: p.cfg.Now().UTC(), Provider: p.cfg.Domain}
	var err error
	if doc.Client, err = p.Client.ExportClient(ctx, user); err != nil {
		return err
	}
	if doc.Consent.Policy, err = p.People.ConsentPolicy(ctx, user); err != nil {
		return err
	}
	contacts, err := p.People.Contacts(ctx, user)
	if err != nil {
		return err
	}
	for _, c := range contacts {
		doc.Consent.Contacts = append(doc.Consent.Contacts, exportContact{c.User.String(), c.Room.String(), uint8(c.Grants), uint8(c.Granted), c.Since})
	}
	blocked, err := p.People.Blocked(ctx, user)
	if err != nil {
		return err
	}
	for _, b := range blocked {
		doc.Blocked = append(doc.Blocked, b.String())
	}
	var rooms []string
	if err := p.store.View(ctx, func(tx *store.Tx) error {
		person, found, err := tx.Person(user.String())
		if err != nil {
			return err
		}
		doc.Profile = adapter.Profile{User: user}
		if found {
			doc.Profile.Name, doc.Profile.Avatar = person.Name, person.Avatar
		}
		fields, err := tx.Fields(user.String())
		if err != nil {
			return err
		}
		for _, f := range fields {
			if doc.Profile.Fields == nil {
				doc.Profile.Fields = map[string]string{}
			}
			doc.Profile.Fields[f.Name] = f.Value
		}
		files, err := tx.UserAssets(user.String())
		if err != nil {
			return err
		}
		for _, a := range files {
			f := exportFile{URL: p.files.fed.AssetURL(a.Name), Octets: a.Size, Type: a.Type, Created: time.UnixMilli(a.Created).UTC()}
			if a.Expires != 0 {
				t := time.UnixMilli(a.Expires).UTC()
				f.Expires = &t
			}
			doc.Files = append(doc.Files, f)
		}
		rooms, err = tx.EventRooms()
		return err
	}); err != nil {
		return err
	}
	in := map[string]bool{}
	now, err := p.Client.RoomsOf(ctx, user)
	if err != nil {
		return err
	}
	for _, r := range now {
		in[r.String()] = true
		found := false
		for _, have := range rooms {
			found = found || have == r.String()
		}
		if !found {
			rooms = append(rooms, r.String())
		}
	}
	b, err := json.MarshalIndent(&doc, "", "  ")
	if err != nil {
		return err
	}
	// The document without its closing brace, then the rooms.
	if _, err := fmt.Fprintf(w, "%s,\n  \"rooms\": [", b[:len(b)-2]); err != nil {
		return err
	}
	first := true
	for _, id := range rooms {
		r := exportRoom{Room: id, Member: in[id], Messages: []client.ExportedMessage{}}
		if err := p.Client.ExportMessages(ctx, id, user, func(m client.ExportedMessage) error {
			r.Messages = append(r.Messages, m)
			return nil
		}); err != nil {
			return err
		}
		if !r.Member && len(r.Messages) == 0 {
			continue
		}
		if uri, err := mimiuri.ParseKind(id, mimiuri.Room); err == nil {
			if room, ok, err := p.Client.Room(ctx, uri); err == nil && ok {
				r.Name = room.Name
				if role, ok := room.RoleOf(user); ok {
					r.Role = role.Name
				}
			}
		}
		b, err := json.MarshalIndent(&r, "    ", "  ")
		if err != nil {
			return err
		}
		sep := ",\n    "
		if first {
			sep = "\n    "
		}
		first = false
		if _, err := fmt.Fprintf(w, "%s%s", sep, b); err != nil {
			return err
		}
	}
	_, err = io.WriteString(w, "\n  ]\n}\n")
	return err
}
