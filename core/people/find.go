package people

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// Bounds of discovery.
const (
	maxFound        = 20 // users in one answer
	minPart         = 3  // octets of a value that need only be contained
	maxFields       = 32 // fields of a profile
	maxFieldLen     = 256
	maxNameLen      = 256
	maxAvatarLen    = 2048
	profileLife     = 24 * time.Hour
	noProfileLife   = 6 * time.Hour    // when the provider knew nothing
	profileFailed   = 10 * time.Minute // when it did not answer
	profilePatience = 5 * time.Second
)

// fieldNames are the names of fields without a claim or property of their own, for Find and for profiles.
var fieldNames = map[string]wire.SearchType{
	"handle": wire.SearchHandle, "nick": wire.SearchNick, "email": wire.SearchEmail, "phone": wire.SearchPhone,
	"partialName": wire.SearchPartialName, "wholeProfile": wire.SearchWholeProfile,
}

// oidcNames are fields that have a shorter name here than in OpenID Connect.
var oidcNames = map[string]string{"fullName": "name", "givenName": "given_name", "familyName": "family_name"}

// element makes of a field's name what the protocol asks by: those above, "oidc-CLAIM" and "vcard-PROPERTY".
func element(field, value string) (e wire.QueryElement, ok bool) {
	e.Value = value
	if t, ok := fieldNames[field]; ok {
		e.Type = t
		return e, true
	}
	if claim, ok := oidcNames[field]; ok {
		e.Type, e.Name = wire.SearchOIDCClaim, claim
		return e, true
	}
	if claim, ok := strings.CutPrefix(field, "oidc-"); ok && claim != "" {
		e.Type, e.Name = wire.SearchOIDCClaim, claim
		return e, true
	}
	if prop, ok := strings.CutPrefix(field, "vcard-"); ok && prop != "" {
		e.Type, e.Name = wire.SearchVCardField, strings.ToUpper(prop)
		return e, true
	}
	return e, false
}

// fieldOf is the name under which a field is stored: one for each thing that can be asked for.
func fieldOf(e wire.QueryElement) string {
	switch e.Type {
	case wire.SearchOIDCClaim:
		return "oidc-" + e.Name
	case wire.SearchVCardField:
		return "vcard-" + strings.ToUpper(e.Name)
	}
	return e.Type.String()
}

// fold is a value as it is compared: what differs only in case is the same name.
func fold(v string) string { return strings.ToLower(strings.TrimSpace(v)) }

// SetProfile is adapter.People's. Who knows a user's URI may read the name and the avatar; by the fields they may be found.
func (p *People) SetProfile(ctx context.Context, local mimiuri.URI, prof adapter.Profile) error {
	if local.Kind != mimiuri.User || local.Domain != p.cfg.Domain {
		return fault.New(fault.Forbidden, "only users of this provider act through it")
	}
	bad := func(why string) error { return fault.New(fault.Malformed, why) }
	if len(prof.Name) > maxNameLen || !utf8.ValidString(prof.Name) {
		return bad(fmt.Sprintf("a name may have at most %d octets", maxNameLen))
	}
	if prof.Avatar != "" {
		if u, err := url.Parse(prof.Avatar); err != nil || u.Scheme != "https" || u.Host == "" || len(prof.Avatar) > maxAvatarLen {
			return bad("an avatar is an https URL")
		}
	}
	if len(prof.Fields) > maxFields {
		return bad(fmt.Sprintf("a profile may have at most %d fields", maxFields))
	}
	fields := map[string]store.Field{}
	for name, value := range prof.Fields {
		e, ok := element(name, value)
		if !ok || len(name) > maxFieldLen || len(value) > maxFieldLen || !utf8.ValidString(name+value) {
			return bad("there is no such field, or it is too long")
		}
		if e.Type == wire.SearchPartialName || e.Type == wire.SearchWholeProfile {
			if value == "" {
				value = prof.Name
			}
		}
		if f := fold(value); f != "" {
			fields[fieldOf(e)] = store.Field{Name: fieldOf(e), Value: value, Folded: f}
		}
	}
	if whole, ok := fields[wire.SearchWholeProfile.String()]; ok { // any of the searchable fields
		var all []string
		for _, f := range fields {
			all = append(all, f.Folded)
		}
		slices.Sort(all)
		whole.Folded = strings.Join(append(all, fold(prof.Name)), "\n")
		fields[whole.Name] = whole
	}
	var list []store.Field
	for _, f := range fields {
		list = append(list, f)
	}
	return p.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		person, _, err := tx.Person(local.String())
		if err != nil {
			return err
		}
		person.Name, person.Avatar = prof.Name, prof.Avatar
		if err := tx.PutPerson(&person); err != nil {
			return err
		}
		return tx.SetFields(local.String(), list)
	})
}

// IdentifierQuery is port.People's, about users of this provider.
func (p *People) IdentifierQuery(ctx context.Context, from, _ string, body []byte) ([]byte, error) {
	q, err := wire.ParseIdentifierRequest(body)
	if err != nil {
		return nil, err
	}
	if from != p.cfg.Domain {
		var over error
		if err := p.cfg.Store.Update(ctx, func(tx *store.Tx) error {
			over = p.useBoth(tx, mimiuri.URI{}, from, "lookups", p.settings().Limits.Lookups)
			if fault.Is(over, fault.Limited) {
				return nil
			}
			return over
		}); err != nil {
			return nil, err
		}
		if over != nil {
			return nil, over
		}
	}
	p.Counters.Lookups.Add(1)
	a, err := p.answer(ctx, from, q)
	if err != nil {
		return nil, err
	}
	return a.Marshal(), nil
}

func (p *People) answer(ctx context.Context, from string, q *wire.IdentifierRequest) (*wire.IdentifierResponse, error) {
	a := &wire.IdentifierResponse{Code: wire.IdentifierNotFound}
	for _, e := range q.Elements {
		if part := e.Type == wire.SearchPartialName || e.Type == wire.SearchWholeProfile; part && len(fold(e.Value)) < minPart {
			return &wire.IdentifierResponse{Code: wire.IdentifierAmbiguous}, nil
		}
		if len(e.Name) > maxFieldLen || len(e.Value) > mimiuri.MaxLen {
			return &wire.IdentifierResponse{Code: wire.IdentifierUnsupportedField}, nil
		}
	}
	err := p.cfg.Store.View(ctx, func(tx *store.Tx) error {
		var found []string
		for i, e := range q.Elements {
			users, err := p.match(tx, e)
			if err != nil {
				return err
			}
			if i == 0 {
				found = users
			} else {
				found = slices.DeleteFunc(found, func(u string) bool { return !slices.Contains(users, u) })
			}
		}
		for _, user := range found {
			u, err := mimiuri.Parse(user)
			if err != nil || len(a.Users) >= maxFound || p.blocked(u, provider(from), mimiuri.URI{}) {
				continue
			}
			person, _, err := tx.Person(user)
			if err != nil {
				return err
			}
			prof := wire.UserProfile{User: u}
			if person.Name != "" {
				prof.Fields = append(prof.Fields, wire.ProfileField{Source: wire.SearchOIDCClaim, Name: "name", Value: person.Name})
			}
			if person.Avatar != "" {
				prof.Fields = append(prof.Fields, wire.ProfileField{Source: wire.SearchOIDCClaim, Name: "picture", Value: person.Avatar})
			}
			a.Users, a.Profiles, a.Code = append(a.Users, u), append(a.Profiles, prof), wire.IdentifierSuccess
		}
		return nil
	})
	return a, err
}

// match lists the users who opted in to the field and have the value. A user's own URI is a handle of those who have
// published a name or an avatar.
func (p *People) match(tx *store.Tx, e wire.QueryElement) ([]string, error) {
	part := e.Type == wire.SearchPartialName || e.Type == wire.SearchWholeProfile
	users, err := tx.FindPeople(fieldOf(e), fold(e.Value), part, 10*maxFound)
	if err != nil || e.Type != wire.SearchHandle {
		return users, err
	}
	if u, err := mimiuri.ParseKind(e.Value, mimiuri.User); err == nil && u.Domain == p.cfg.Domain && !slices.Contains(users, u.String()) {
		person, _, err := tx.Person(u.String())
		if err != nil {
			return nil, err
		}
		if person.Name != "" || person.Avatar != "" {
			users = append(users, u.String())
		}
	}
	return users, nil
}

// query asks a provider, this one by a call, and gives what is to be believed of its answer.
func (p *People) query(ctx context.Context, domain string, q *wire.IdentifierRequest) ([]adapter.Profile, error) {
	var a *wire.IdentifierResponse
	var err error
	if domain == p.cfg.Domain {
		if a, err = p.answer(ctx, domain, q); err != nil {
			return nil, err
		}
	} else {
		b, err := p.cfg.Peers.IdentifierQuery(ctx, p.cfg.Domain, domain, q.Marshal())
		if err != nil {
			return nil, err
		}
		if a, err = wire.ParseIdentifierResponse(b); err != nil {
			return nil, fault.Wrap(fault.Unavailable, "the other provider's answer cannot be read", err)
		}
	}
	switch a.Code {
	case wire.IdentifierSuccess, wire.IdentifierNotFound:
	case wire.IdentifierAmbiguous:
		return nil, fault.New(fault.Malformed, "this could be many people; please ask for more of it")
	case wire.IdentifierForbidden:
		return nil, fault.New(fault.Forbidden, domain+" does not answer such questions")
	default:
		return nil, fault.New(fault.Forbidden, domain+" does not know people by this")
	}
	var list []adapter.Profile
	add := func(u mimiuri.URI, fields []wire.ProfileField) {
		if u.Domain != domain || len(list) >= maxFound || slices.ContainsFunc(list, func(p adapter.Profile) bool { return p.User == u }) {
			return
		}
		list = append(list, profileOf(u, fields))
	}
	for _, prof := range a.Profiles {
		add(prof.User, prof.Fields)
	}
	for _, u := range a.Users {
		add(u, nil)
	}
	return list, nil
}

// profileOf reads the fields of another provider, which may say anything.
func profileOf(u mimiuri.URI, fields []wire.ProfileField) adapter.Profile {
	prof := adapter.Profile{User: u, Fields: map[string]string{}}
	for _, f := range fields {
		switch {
		case len(f.Value) > maxAvatarLen || len(f.Name) > maxFieldLen:
		case f.Source == wire.SearchOIDCClaim && f.Name == "name" && len(f.Value) <= maxNameLen:
			prof.Name = f.Value
		case f.Source == wire.SearchVCardField && f.Name == "FN" && prof.Name == "" && len(f.Value) <= maxNameLen:
			prof.Name = f.Value
		case f.Source == wire.SearchOIDCClaim && f.Name == "picture":
			if a, err := url.Parse(f.Value); err == nil && a.Scheme == "https" && a.Host != "" {
				prof.Avatar = f.Value
			}
		case f.Source == wire.SearchOIDCClaim || f.Source == wire.SearchVCardField:
			prof.Fields[fieldOf(wire.QueryElement{Type: f.Source, Name: f.Name})] = f.Value
		}
	}
	return prof
}

// Find is adapter.People's.
func (p *People) Find(ctx context.Context, local mimiuri.URI, domain, field, value string) ([]adapter.Profile, error) {
	if local.Kind != mimiuri.User || local.Domain != p.cfg.Domain {
		return nil, fault.New(fault.Forbidden, "only users of this provider act through it")
	}
	if domain == "" {
		domain = p.cfg.Domain
	}
	domain, err := mimiuri.NormalizeDomain(domain)
	if err != nil {
		return nil, fault.Wrap(fault.Malformed, "this is not the domain of a provider", err)
	}
	e, ok := element(field, value)
	if !ok || strings.TrimSpace(value) == "" || len(field) > maxFieldLen || len(value) > mimiuri.MaxLen || !utf8.ValidString(field+value) {
		return nil, fault.New(fault.Malformed, "people are not found by this")
	}
	l := p.settings().Limits.Lookups
	if err := p.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		return p.use(tx, local.String(), "lookups", time.Hour, l, fmt.Sprintf("you may look %d people up an hour; please wait a little", l))
	}); err != nil {
		return nil, err
	}
	return p.query(ctx, domain, &wire.IdentifierRequest{Elements: []wire.QueryElement{e}})
}

// Profile is adapter.People's. What was told by the user's provider is kept for a day; after that it is given once more, and
// asked for again beside. It blocks a few seconds at most, for a user who was not asked for before.
func (p *People) Profile(ctx context.Context, user mimiuri.URI) (adapter.Profile, bool, error) {
	if user.Kind != mimiuri.User {
		return adapter.Profile{}, false, fault.New(fault.Malformed, "this is not a user")
	}
	if user.Domain == p.cfg.Domain {
		return p.own(ctx, user)
	}
	var known store.Profile
	var ok bool
	if err := p.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		known, ok, err = tx.Profile(user.String())
		return err
	}); err != nil {
		return adapter.Profile{}, false, err
	}
	if !ok {
		ctx, cancel := context.WithTimeout(ctx, profilePatience)
		defer cancel()
		known = p.fetch(ctx, user, known)
	} else if known.Expires <= p.now() {
		if _, busy := p.refreshing.LoadOrStore(user, true); !busy {
			go p.guarded("fetching a profile", func() {
				defer p.refreshing.Delete(user)
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
				defer cancel()
				p.fetch(ctx, user, known)
			})
		}
	}
	return adapter.Profile{User: user, Name: known.Name, Avatar: known.Avatar}, known.Found, nil
}

func (p *People) own(ctx context.Context, user mimiuri.URI) (prof adapter.Profile, ok bool, err error) {
	prof = adapter.Profile{User: user, Fields: map[string]string{}}
	err = p.cfg.Store.View(ctx, func(tx *store.Tx) error {
		person, _, err := tx.Person(user.String())
		if err != nil {
			return err
		}
		prof.Name, prof.Avatar = person.Name, person.Avatar
		fields, err := tx.Fields(user.String())
		for _, f := range fields {
			prof.Fields[f.Name] = f.Value
		}
		return err
	})
	return prof, prof.Name != "" || prof.Avatar != "" || len(prof.Fields) > 0, err
}

// fetch asks a user's provider what others may know of them, and keeps the answer; was is what is known.
func (p *People) fetch(ctx context.Context, user mimiuri.URI, was store.Profile) store.Profile {
	now := p.cfg.Now()
	got := store.Profile{User: user.String(), Expires: now.Add(noProfileLife).UnixMilli()}
	list, err := p.query(ctx, user.Domain, &wire.IdentifierRequest{Elements: []wire.QueryElement{{Type: wire.SearchHandle, Value: user.String()}}})
	if err != nil && fault.Temporary(err) {
		got = was // nothing new
		got.User, got.Expires = user.String(), now.Add(profileFailed).UnixMilli()
		p.cfg.Log.Debug().Err(err).Str("user", user.String()).Msg("a profile could not be fetched")
	}
	if i := slices.IndexFunc(list, func(x adapter.Profile) bool { return x.User == user }); i >= 0 {
		got.Found, got.Name, got.Avatar, got.Expires = true, list[i].Name, list[i].Avatar, now.Add(profileLife).UnixMilli()
	}
	p.update(ctx, func(tx *store.Tx) error { return tx.PutProfile(&got) })
	return got
}
