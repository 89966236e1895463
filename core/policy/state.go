package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// Denied is a refusal by a rule of the room. It is a fault of kind Forbidden; Message may be read by whoever asked.
type Denied struct {
	Rule    string // the capability, the constraint or the clause that stands against it
	Message string // a sentence
}

func (d *Denied) Error() string { return "policy: " + d.Rule + ": " + d.Message }

// Unwrap makes the refusal a fault.
func (d *Denied) Unwrap() error { return fault.New(fault.Forbidden, d.Message) }

func deny(rule, format string, args ...any) *Denied {
	return &Denied{rule, fmt.Sprintf(format, args...)}
}

// State is the room's state as an epoch of the group has it. It must not be changed; it may be used
// concurrently.
type State struct {
	Participants  ParticipantList
	Roles         RoleData
	Base          *BaseRoomPolicy // never nil after ParseState: without the component, the draft's defaults
	Metadata      RoomMetadata
	PreAuth       PreAuthData
	History       HistoryPolicy // Forbidden without the component
	Assets        *AssetPolicy  // nil without the component
	FrankingAgent []byte        // FrankingAgentData, or nil

	dict    mls.AppDataDictionary
	index   map[mimiuri.URI]int
	pending []change             // see WithPending
	leaving map[mimiuri.URI]bool // removed or banned by pending proposals
}

// ParseState reads a GroupContext's dictionary. participant_list and roles_list must be there. The error wraps a
// fault of kind Malformed.
func ParseState(dict mls.AppDataDictionary) (*State, error) {
	s := &State{dict: dict, Base: &BaseRoomPolicy{MultiDevice: true}, History: HistoryPolicy{Sharing: Forbidden}}
	b, ok := dict.Get(ComponentParticipantList)
	if !ok {
		return nil, malformed("participant_list", errors.New("absent"))
	}
	var err error
	if s.Participants, err = ParseParticipantList(b); err != nil {
		return nil, err
	}
	if b, ok = dict.Get(ComponentRolesList); !ok {
		return nil, malformed("roles_list", errors.New("absent"))
	}
	if s.Roles, err = ParseRoleData(b); err != nil {
		return nil, err
	}
	if b, ok = dict.Get(ComponentBaseRoomPolicy); ok {
		if s.Base, err = ParseBaseRoomPolicy(b); err != nil {
			return nil, err
		}
	}
	if b, ok = dict.Get(ComponentRoomMetadata); ok {
		if s.Metadata, err = ParseRoomMetadata(b); err != nil {
			return nil, err
		}
	}
	if b, ok = dict.Get(ComponentPreAuthList); ok {
		if s.PreAuth, err = ParsePreAuthData(b); err != nil {
			return nil, err
		}
	}
	if b, ok = dict.Get(ComponentChatHistory); ok {
		if s.History, err = ParseHistoryPolicy(b); err != nil {
			return nil, err
		}
	}
	if b, ok = dict.Get(ComponentAssetPolicy); ok {
		p, err := ParseAssetPolicy(b)
		if err != nil {
			return nil, err
		}
		s.Assets = &p
	}
	if b, ok = dict.Get(ComponentFrankingAgent); ok {
		if _, err = parseFrankingAgent(b); err != nil {
			return nil, err
		}
		s.FrankingAgent = b
	}
	s.index = make(map[mimiuri.URI]int, len(s.Participants))
	for i, p := range s.Participants {
		s.index[p.User] = i
	}
	return s, nil
}

// indexOf is the user_index of a user, or -1.
func (s *State) indexOf(user mimiuri.URI) int {
	if s.index == nil {
		return s.Participants.Index(user)
	}
	if i, ok := s.index[user]; ok {
		return i
	}
	return -1
}

// RoleIndex is the role_index of a user, 0 for one who is not listed.
func (s *State) RoleIndex(user mimiuri.URI) uint32 {
	if i := s.indexOf(user); i >= 0 {
		return s.Participants[i].Role
	}
	return RoleNone
}

// Role is the role of a user: that with index 0 for one who is not listed. A role the room does not define is an
// empty one, which may do nothing and have no clients.
func (s *State) Role(user mimiuri.URI) Role { return s.role(s.RoleIndex(user)) }

func (s *State) role(index uint32) Role {
	r, ok := s.Roles.Get(index)
	if !ok {
		none := uint32(0)
		return Role{Index: index, MaxActive: &none}
	}
	return r
}

// Banned reports whether a user has the banned role.
func (s *State) Banned(user mimiuri.URI) bool { return s.Roles.banned(s.RoleIndex(user)) }

// IsBanned reports whether a role_index is that of the banned role.
func (s *State) IsBanned(role uint32) bool { return s.Roles.banned(role) }

// Hub is the URI under which the hub is listed, zero if it is not.
func (s *State) Hub() mimiuri.URI {
	for _, p := range s.Participants {
		if p.User.Kind == mimiuri.Provider {
			return p.User
		}
	}
	return mimiuri.URI{}
}

// Leaving reports whether a pending proposal removes or bans a user; see [State.WithPending].
func (s *State) Leaving(user mimiuri.URI) bool { return s.leaving[user] }

// CheckSend judges whether a user may send an application message (canSendMessage).
func (s *State) CheckSend(user mimiuri.URI) error {
	if err := s.checkTakesPart(user); err != nil {
		return err
	}
	if !s.Role(user).Can(CanSendMessage) {
		return deny("canSendMessage", "your role in this room may not send messages")
	}
	return nil
}

// MayReceive reports whether a user may be sent messages (canReceiveMessage).
func (s *State) MayReceive(user mimiuri.URI) bool { return s.Role(user).Can(CanReceiveMessage) }

// checkTakesPart: the user is listed, and neither banned nor on the way out.
func (s *State) checkTakesPart(user mimiuri.URI) error {
	switch {
	case s.indexOf(user) < 0 || user.Kind != mimiuri.User:
		return deny("participant_list", "you are not a participant of this room")
	case s.Banned(user):
		return deny("banned", "you are banned from this room")
	case s.leaving[user]:
		return deny("removed participant", "you have been removed from this room")
	}
	return nil
}

// CheckGroupInfo judges whether a user may have the group's key information to join by an external commit: a
// participant who may have clients, or anybody if the room's role 0 or its preauthorized users let them in.
func (s *State) CheckGroupInfo(user mimiuri.URI) error {
	if user.Kind == mimiuri.User && s.indexOf(user) < 0 {
		if s.role(RoleNone).Can(CanOpenJoin) {
			return nil
		}
		if r := s.PreAuth.firstRole(); r != RoleNone && s.role(r).Can(CanJoinIfPreauthorized) {
			return nil
		}
	}
	if err := s.checkTakesPart(user); err != nil {
		return err
	}
	if !s.Role(user).MayHaveClients() {
		return deny("maximum_active_participants_constraint", "your role in this room may not have clients")
	}
	return nil
}

// CheckKeyMaterial judges whether requester may have KeyPackages of target for this room: with canAddOwnClient their
// own, else if they could add the target, or its clients if it is listed.
func (s *State) CheckKeyMaterial(requester, target mimiuri.URI) error {
	if err := s.checkTakesPart(requester); err != nil {
		return err
	}
	role := s.Role(requester)
	if requester == target {
		if !role.Can(CanAddOwnClient) {
			return deny("canAddOwnClient", "your role in this room may not add clients")
		}
		return nil
	}
	if s.indexOf(target) >= 0 {
		if s.Banned(target) {
			return deny("banned", "they are banned from this room")
		}
		if s.Base.FixedMembership && role.Can(CanAddOwnClient) {
			return nil
		}
	} else if s.Base.FixedMembership {
		return deny("fixed_membership", "nobody can be added to this room")
	}
	if !role.Can(CanAddParticipant) {
		return deny("canAddParticipant", "your role in this room may not add people")
	}
	return nil
}

// knownComponents are those of ApplyAppData and of the authenticated data, in order.
func knownComponents() []mls.ComponentID {
	ids := append(slices.Collect(maps.Keys(components)), ComponentFrankAAD)
	slices.Sort(ids)
	return ids
}

func componentsList(ids []mls.ComponentID) []byte {
	return encode(func(w *tlspl.Writer) { writeList16(w, ids) })
}
