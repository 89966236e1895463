package xmpp

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

const (
	nsVCard4     = "urn:ietf:params:xml:ns:vcard-4.0" // XEP-0292
	nsPubSub     = "http://jabber.org/protocol/pubsub"
	nsAvatarMeta = "urn:xmpp:avatar:metadata" // XEP-0084
	nsAvatarData = "urn:xmpp:avatar:data"
)

// maxAvatar is the most octets of an avatar that is shown.
const maxAvatar = 256 << 10

// avatar is a picture as XMPP clients get it.
type avatar struct {
	typ  string
	hash string // SHA-1 in hexadecimal, as XEP-0084 and XEP-0153 name it
	data []byte
	at   time.Time
}

// avatars keeps pictures that were fetched, by URI.
type avatars struct {
	mu    sync.Mutex
	byURI map[string]*avatar
	users map[mimiuri.URI]string // the URI of a user's
}

const maxAvatars = 100

// fetchAvatar gets a picture from where a URI says; nil if there is none that can be shown. What was found is kept
// in memory for an hour.
func (s *service) fetchAvatar(ctx context.Context, uri string) *avatar {
	if uri == "" {
		return nil
	}
	s.pictures.mu.Lock()
	a := s.pictures.byURI[uri]
	s.pictures.mu.Unlock()
	if a != nil && time.Since(a.at) < time.Hour {
		if len(a.data) == 0 {
			return nil
		}
		return a
	}
	a = &avatar{at: time.Now()}
	body, typ, _, err := s.host.FetchPublic(ctx, uri)
	if err == nil {
		b, err2 := io.ReadAll(io.LimitReader(body, maxAvatar+1))
		body.Close()
		typ, _, _ = strings.Cut(typ, ";")
		if err2 == nil && len(b) <= maxAvatar && strings.HasPrefix(typ, "image/") {
			sum := sha1.Sum(b)
			a.typ, a.hash, a.data = typ, hex.EncodeToString(sum[:]), b
		}
	} else {
		s.log.Debug().Err(err).Msg("an avatar could not be fetched")
	}
	s.pictures.mu.Lock()
	defer s.pictures.mu.Unlock()
	if len(s.pictures.byURI) >= maxAvatars {
		clear(s.pictures.byURI)
		clear(s.pictures.users)
	}
	s.pictures.byURI[uri] = a
	if len(a.data) == 0 {
		return nil
	}
	return a
}

// avatarHash gives the hash of an avatar that has been fetched, "" if it has not been.
func (s *service) avatarHash(uri string) string {
	s.pictures.mu.Lock()
	defer s.pictures.mu.Unlock()
	if a := s.pictures.byURI[uri]; a != nil {
		return a.hash
	}
	return ""
}

// avatarOf gives the hash of a user's avatar, if it has been fetched.
func (s *service) avatarOf(u mimiuri.URI) string {
	s.pictures.mu.Lock()
	uri := s.pictures.users[u]
	s.pictures.mu.Unlock()
	return s.avatarHash(uri)
}

// profileOf reads what is known of a user, with their avatar.
func (s *service) profileOf(ctx context.Context, u mimiuri.URI) (adapter.Profile, *avatar, error) {
	p, ok, err := s.host.Profile(ctx, u)
	if err != nil {
		return p, nil, err
	}
	if !ok || p.Name == "" {
		p.User, p.Name = u, fullName(u)
	}
	a := s.fetchAvatar(ctx, p.Avatar)
	if a != nil {
		s.pictures.mu.Lock()
		s.pictures.users[u] = p.Avatar
		s.pictures.mu.Unlock()
	}
	return p, a, nil
}

// vCardOf is a profile as XEP-0054 has it.
func vCardOf(p adapter.Profile, a *avatar) *element {
	v := el(nsVCard, "vCard").add(textEl(nsVCard, "FN", cut(p.Name, 1000)), textEl(nsVCard, "NICKNAME", cut(p.Name, 1000)))
	if p.User.Kind == mimiuri.User {
		v.add(textEl(nsVCard, "URL", p.User.String()))
	}
	if m := p.Fields["email"]; m != "" {
		v.add(el(nsVCard, "EMAIL").add(textEl(nsVCard, "USERID", cut(m, 500))))
	}
	return v.add(photo(a))
}

func photo(a *avatar) *element {
	if a == nil {
		return nil
	}
	return el(nsVCard, "PHOTO").add(textEl(nsVCard, "TYPE", a.typ), textEl(nsVCard, "BINVAL", base64.StdEncoding.EncodeToString(a.data)))
}

// userVCard is XEP-0054 at a user elsewhere, and at the gateway.
func (s *service) userVCard(in *packet, q *element) (*element, error) {
	if err := wants(in, "get"); err != nil {
		return nil, err
	}
	if _, err := s.sender(in); err != nil {
		return nil, err
	}
	if in.to.local == "" {
		return el(nsVCard, "vCard").add(textEl(nsVCard, "FN", "MIMI gateway"), textEl(nsVCard, "DESC", textAbout)), nil
	}
	u, ok := s.contact(in.to.local)
	if !ok {
		return nil, errNoContact
	}
	ctx, cancel := s.timeout()
	defer cancel()
	p, a, err := s.profileOf(ctx, u)
	if err != nil {
		return nil, err
	}
	if q.Space == nsVCard4 {
		text := func(name, v string) *element {
			return el(nsVCard4, name).add(textEl(nsVCard4, "text", cut(v, 1000)))
		}
		v := el(nsVCard4, "vcard").add(text("fn", p.Name), text("nickname", p.Name), el(nsVCard4, "url").add(textEl(nsVCard4, "uri", u.String())))
		if a != nil {
			v.add(el(nsVCard4, "photo").add(textEl(nsVCard4, "uri", "data:"+a.typ+";base64,"+base64.StdEncoding.EncodeToString(a.data))))
		}
		return v, nil
	}
	return vCardOf(p, a), nil
}

// userPubSub answers for the nodes that clients read at a contact: the avatar (XEP-0084), the nick (XEP-0172).
func (s *service) userPubSub(in *packet, q *element) (*element, error) {
	if err := wants(in, "get"); err != nil {
		return nil, err
	}
	if _, err := s.sender(in); err != nil {
		return nil, err
	}
	u, ok := s.contact(in.to.local)
	items := q.child(nsPubSub, "items")
	if !ok || items == nil {
		return nil, errService
	}
	ctx, cancel := s.timeout()
	defer cancel()
	p, a, err := s.profileOf(ctx, u)
	if err != nil {
		return nil, err
	}
	node := items.attr("node")
	out := el(nsPubSub, "items", "node", node)
	switch {
	case node == nsNick:
		out.add(el(nsPubSub, "item", "id", "current").add(textEl(nsNick, "nick", cut(p.Name, maxNick))))
	case a == nil:
		return nil, errNoPicture
	case node == nsAvatarMeta:
		out.add(el(nsPubSub, "item", "id", a.hash).add(el(nsAvatarMeta, "metadata").add(
			el(nsAvatarMeta, "info", "id", a.hash, "type", a.typ, "bytes", strconv.Itoa(len(a.data))))))
	case node == nsAvatarData:
		out.add(el(nsPubSub, "item", "id", a.hash).add(textEl(nsAvatarData, "data", base64.StdEncoding.EncodeToString(a.data))))
	default:
		return nil, errService
	}
	return el(nsPubSub, "pubsub").add(out), nil
}

// roomVCard is XEP-0054 at a room, whose picture is its avatar, and at an occupant. Whoever may change the avatar does so by a new vCard.
func (s *service) roomVCard(in *packet, q *element) (*element, error) {
	if in.to.resource != "" {
		return s.occupantVCard(in)
	}
	user, u, info, _, err := s.inRoom(in)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.timeout()
	defer cancel()
	if in.typ == "get" {
		v := el(nsVCard, "vCard").add(textEl(nsVCard, "FN", cut(roomName(info), 1000)))
		if info.Description != "" {
			v.add(textEl(nsVCard, "DESC", cut(info.Description, 2000)))
		}
		return v.add(photo(s.fetchAvatar(ctx, info.Avatar))), nil
	}
	if !can(info, user, policy.CanChangeRoomAvatar) {
		return nil, errRoomAvatar
	}
	uri := ""
	if x := q.child(nsVCard, "PHOTO"); x != nil {
		b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(x.text(nsVCard, "BINVAL")), ""))
		typ := x.text(nsVCard, "TYPE")
		if err != nil || len(b) > maxAvatar || !isPicture(typ) {
			return nil, errPicture
		}
		if uri, err = s.host.Publish(ctx, user, strings.NewReader(string(b)), typ); err != nil {
			return nil, err
		}
	}
	return nil, s.andAnswer(in, adapter.Intent{Kind: adapter.SetMetadata, Room: u, Actor: user, Metadata: &adapter.MetadataChange{Avatar: &uri}}, func(bool) *element { return nil })
}

func isPicture(typ string) bool {
	switch typ {
	case "image/png", "image/jpeg", "image/gif", "image/webp":
		return true
	}
	return false
}

// occupantVCard is the vCard of an occupant: of somebody elsewhere what is known of them, of a local one that of their account,
// which their server is asked for.
func (s *service) occupantVCard(in *packet) (*element, error) {
	if err := wants(in, "get"); err != nil {
		return nil, err
	}
	u, err := s.roomAt(in)
	if err != nil {
		return nil, err
	}
	r, _, err := s.at(u)
	defer s.release(r)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	se, m := r.sessions[in.from.String()], r.nicks[nickKey(in.to.resource)]
	r.mu.Unlock()
	switch {
	case se == nil:
		return nil, errNotIn
	case m == nil:
		return nil, errNoNick
	}
	ctx, cancel := s.timeout()
	defer cancel()
	if m.user.Domain != s.domain {
		p, a, err := s.profileOf(ctx, m.user)
		if err != nil {
			return nil, err
		}
		return vCardOf(p, a), nil
	}
	go func() {
		result, err := s.request(s.toRoom, el("", "iq", "type", "get", "from", r.jid.String(), "to", m.jid.String()).add(el(nsVCard, "vCard")))
		if err != nil {
			s.refuse(in, err)
			return
		}
		s.answer(in, result)
	}()
	return nil, errLater
}

// requestWait is how long an answer to a request of the component is waited for.
const requestWait = 10 * time.Second

// request asks somebody and waits for the answer: the first child of the result, or the error. It must not be called by what
// handles stanzas of the same queue.
func (s *service) request(st *stream, iq *element) (*element, error) {
	ch := make(chan *packet, 1)
	s.mu.Lock()
	if len(s.asked) >= maxWaiting {
		s.mu.Unlock()
		return nil, errBusyRoom
	}
	s.asks++
	id := fmt.Sprintf("ask-%d-%s", s.asks, shortHash(fmt.Sprint(time.Now().UnixNano())))
	s.asked[id] = asked{iq.attr("to"), ch}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.asked, id)
		s.mu.Unlock()
	}()
	if _, err := st.send(iq.set("id", id)); err != nil {
		return nil, err
	}
	t := time.NewTimer(requestWait)
	defer t.Stop()
	select {
	case in := <-ch:
		if in.typ == "error" {
			return nil, errAnswered(cut(conditionOf(in.kids), 100))
		}
		if len(in.kids) == 0 {
			return nil, nil
		}
		return in.kids[0], nil
	case <-t.C:
		return nil, errNoAnswer
	case <-s.ctx.Done():
		return nil, errNotRunning
	}
}

// asked is a request under way.
type asked struct {
	to string
	ch chan *packet
}

// answered hands an answer to whoever waits for it: only one from the address that was asked.
func (s *service) answered(in *packet) {
	s.mu.Lock()
	a, ok := s.asked[in.id]
	if ok && a.to == in.from.String() {
		delete(s.asked, in.id)
	} else {
		ok = false
	}
	s.mu.Unlock()
	if ok {
		a.ch <- in
	}
}
