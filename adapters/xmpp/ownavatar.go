package xmpp

import (
	"context"
	"encoding/base64"
	"strings"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// The picture of a local user's own account, for people elsewhere. Whoever sets avatar on lets it be part of what they publish (the profile
// that identifierQuery tells, XEP-0054's photo, into which servers put that of XEP-0084): it is read then, and again when a presence to a
// room names another one (XEP-0153).

// settingAvatar is "on" for who wants that; settingAvatarHash is the photo's as presence has named it last.
const (
	settingAvatar     = "avatar"
	settingAvatarHash = "avatar-hash"
)

// avatarSeen looks at the photo that a presence names.
func (s *service) avatarSeen(ctx context.Context, user mimiuri.URI, kids []*element) {
	x := find(kids, nsVCardX, "x")
	photo := x.child(nsVCardX, "photo")
	if photo == nil { // says nothing about it
		return
	}
	hash := strings.ToLower(strings.TrimSpace(photo.Text))
	if on, err := s.db.setting(ctx, user, settingAvatar); err != nil || on != "on" || len(hash) > 64 {
		return
	}
	if last, err := s.db.setting(ctx, user, settingAvatarHash); err != nil || last == hash {
		return
	}
	if err := s.db.set(user, settingAvatarHash, hash); err == nil {
		s.refreshAvatar(user)
	}
}

// refreshAvatar brings the published picture in step, some time soon.
func (s *service) refreshAvatar(user mimiuri.URI) {
	s.work.post("avatar "+user.String(), func() {
		if err := s.publishAvatar(user); err != nil {
			s.log.Info().Err(err).Str("user", user.String()).Msg("the picture of a user could not be published")
		}
	})
}

func (s *service) publishAvatar(user mimiuri.URI) error {
	j, ok := s.ownJID(user)
	if !ok {
		return nil
	}
	ctx, cancel := s.timeout()
	defer cancel()
	on, err := s.db.setting(ctx, user, settingAvatar)
	if err != nil {
		return err
	}
	uri := ""
	if on == "on" {
		v, err := s.request(s.toUser, el("", "iq", "type", "get", "from", s.users, "to", j.String()).add(el(nsVCard, "vCard")))
		if err != nil {
			return err
		}
		if x := v.child(nsVCard, "PHOTO"); x != nil {
			typ := x.text(nsVCard, "TYPE")
			b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(x.text(nsVCard, "BINVAL")), ""))
			if err != nil || len(b) > maxAvatar || !isPicture(typ) {
				return errPicture
			}
			if len(b) > 0 {
				if uri, err = s.host.Publish(ctx, user, strings.NewReader(string(b)), typ); err != nil {
					return err
				}
			}
		}
	}
	p, _, err := s.host.Profile(ctx, user)
	if err != nil {
		return err
	}
	if p.Avatar == uri {
		return nil
	}
	p.User, p.Avatar = user, uri
	return s.host.SetProfile(ctx, user, p)
}
