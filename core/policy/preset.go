package policy

import (
	"errors"
	"fmt"

	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
)

// RoomOptions is what a new room is made of. The hub is the provider of Room.
type RoomOptions struct {
	Room          mimiuri.URI // of kind Room
	Creator       mimiuri.URI // of kind User
	Name          string      // may be empty
	FrankingAgent []byte      // FrankingAgentData, or nil: messages cannot be franked
}

// Role indexes of the presets but Moderated (draft-ietf-mimi-room-policy section "Role examples").
const (
	RoleOrdinaryUser   uint32 = 2
	RoleGroupAdmin     uint32 = 3
	RoleSuperAdmin     uint32 = 4
	RolePolicyEnforcer uint32 = 5
)

// Role indexes of Moderated.
const (
	RoleGuest                   uint32 = 2
	RoleAttendee                uint32 = 3
	RoleSpeaker                 uint32 = 4
	RoleModerator               uint32 = 5
	RoleModeratedSuperAdmin     uint32 = 6
	RoleModeratedPolicyEnforcer uint32 = 7
)

// Cooperative gives the app_data_dictionary of a new room after the draft's "Cooperatively administered room": every
// participant may add and remove others. The creator is super_admin. An error means that o makes no room.
func Cooperative(o RoomOptions) (mls.AppDataDictionary, error) {
	return newRoom(o, cooperativeRoles(), &BaseRoomPolicy{MultiDevice: true, PersistentRoom: true},
		Participant{o.Creator, RoleSuperAdmin}, Participant{o.Room.Provider(), RolePolicyEnforcer})
}

// Strict is Cooperative after the draft's "Strictly administered room": only admins add and remove others.
func Strict(o RoomOptions) (mls.AppDataDictionary, error) {
	return newRoom(o, strictRoles(), &BaseRoomPolicy{MultiDevice: true, PersistentRoom: true},
		Participant{o.Creator, RoleSuperAdmin}, Participant{o.Room.Provider(), RolePolicyEnforcer})
}

// Moderated is Cooperative after the draft's "Moderated room": guests and attendees read, speakers write.
func Moderated(o RoomOptions) (mls.AppDataDictionary, error) {
	return newRoom(o, moderatedRoles(), &BaseRoomPolicy{MultiDevice: true, PersistentRoom: true},
		Participant{o.Creator, RoleModeratedSuperAdmin}, Participant{o.Room.Provider(), RoleModeratedPolicyEnforcer})
}

// DirectMessage is a room of fixed membership: the creator and the others are its participants for good, as equals.
// The draft gives no example of it.
func DirectMessage(o RoomOptions, others ...mimiuri.URI) (mls.AppDataDictionary, error) {
	list := []Participant{{o.Creator, RoleOrdinaryUser}}
	for _, u := range others {
		list = append(list, Participant{u, RoleOrdinaryUser})
	}
	list = append(list, Participant{o.Room.Provider(), RolePolicyEnforcer})
	return newRoom(o, directRoles(), &BaseRoomPolicy{FixedMembership: true, MultiDevice: true, PersistentRoom: true}, list...)
}

func newRoom(o RoomOptions, roles RoleData, base *BaseRoomPolicy, participants ...Participant) (mls.AppDataDictionary, error) {
	if o.Room.Kind != mimiuri.Room {
		return mls.AppDataDictionary{}, errors.New("policy: new room: its URI names no room")
	}
	list := ParticipantList{}
	for i, p := range participants {
		if p.User.Kind != mimiuri.User && i != len(participants)-1 {
			return mls.AppDataDictionary{}, errors.New("policy: new room: a participant's URI names no user")
		}
		list = append(list, p)
	}
	base.PolicyComponents = []mls.ComponentID{ComponentRolesList}
	meta := RoomMetadata{Room: o.Room, Name: o.Name}

	var d mls.AppDataDictionary
	d.Set(ComponentParticipantList, list.Marshal())
	d.Set(ComponentRoomMetadata, meta.Marshal())
	d.Set(ComponentRolesList, roles.Marshal())
	d.Set(ComponentBaseRoomPolicy, base.Marshal())
	required := []mls.ComponentID{
		mls.ComponentAppComponents, mls.ComponentSafeAAD, ComponentFrankAAD,
		ComponentParticipantList, ComponentRoomMetadata, ComponentRolesList, ComponentBaseRoomPolicy,
	}
	if o.FrankingAgent != nil {
		d.Set(ComponentFrankingAgent, o.FrankingAgent)
		required = append(required[:3:3], append([]mls.ComponentID{ComponentFrankingAgent}, required[3:]...)...)
	}
	d.Set(mls.ComponentAppComponents, componentsList(required))
	d.Set(mls.ComponentSafeAAD, componentsList([]mls.ComponentID{ComponentFrankAAD}))
	// What we make is read as strictly as what others send: a duplicate user or an overlong name ends here.
	if _, err := ParseState(d); err != nil {
		return mls.AppDataDictionary{}, fmt.Errorf("policy: new room: %w", err)
	}
	return d, nil
}

// with gives base and more in one new list.
func with(base []Capability, more ...Capability) []Capability {
	return append(append(make([]Capability, 0, len(base)+len(more)), base...), more...)
}

// to is an entry of authorized_role_changes.
func to(from uint32, targets ...uint32) RoleChanges { return RoleChanges{from, targets} }

func u32(v uint32) *uint32 { return &v }

func bannedRole() Role { return Role{Index: RoleBanned, Name: bannedName, MaxActive: u32(0)} }

// policyEnforcer is the hub's role, the same in all examples but for its index and changes. The example's
// canChangeRoleDefinitions and the rest of its list are kept; it adds nobody.
func policyEnforcer(index uint32, changes ...RoleChanges) Role {
	return Role{
		Index: index, Name: "policy_enforcer",
		Capabilities: []Capability{
			CanRemoveParticipant, CanChangeUserRole, CanBan, CanUnban, CanChangeRoleDefinitions,
			CanChangePreauthorizedUserList, CanChangeMLSOperationalPolicies, CanDestroyRoom, CanSendMLSReInitProposal,
		},
		MinParticipants: 1, MaxParticipants: u32(2), MaxActive: u32(0),
		Changes: changes,
	}
}

var adminChanges = []RoleChanges{to(0, 1, 2, 3), to(1, 0, 2, 3), to(2, 0, 1, 3), to(3, 0, 1, 2)}

var superAdminChanges = []RoleChanges{
	to(0, 1, 2, 3, 4), to(1, 0, 2, 3, 4), to(2, 0, 1, 3, 4), to(3, 0, 1, 2, 4), to(4, 0, 1, 2, 3),
}

func cooperativeRoles() RoleData {
	user := []Capability{
		// canJoinIfPreauthorized is not in the example: with it the room can be opened without redefining roles.
		CanAddParticipant, CanRemoveParticipant, CanAddOwnClient, CanJoinIfPreauthorized, CanRemoveOwnClient, CanRemoveSelf,
		CanSendMessage, CanReceiveMessage, CanCopyMessage, CanReportAbuse, CanReplyToMessage, CanReactToMessage,
		CanDeleteOwnReaction, CanEditOwnMessage, CanDeleteOwnMessage, CanStartTopic, CanReplyInTopic, CanEditOwnTopic,
		CanUploadImage, CanUploadVideo, CanUploadAudio, CanUploadAttachment,
		CanDownloadImage, CanDownloadVideo, CanDownloadAudio, CanDownloadAttachment,
		CanSendLink, CanSendLinkPreview, CanFollowLink, CanCopyLink,
		CanChangeRoomName, CanChangeRoomAvatar, CanChangeRoomSubject, CanChangeRoomMood,
		CanChangeOwnName, CanChangeOwnPresence, CanChangeOwnMood, CanChangeOwnAvatar,
	}
	// canRevokeVoice and canGrantVoice of the example are not registered.
	admin := with(user, CanBan, CanUnban, CanKick, CanChangeUserRole, CanDeleteOtherMessage, CanEditOtherTopic,
		CanChangeRoomDescription)
	super := with(admin, CanChangeRoomMembershipStyle, CanChangePreauthorizedUserList, CanDestroyRoom)
	return RoleData{
		{Index: RoleNone, Name: "no_role", MaxActive: u32(0)},
		bannedRole(),
		{Index: RoleOrdinaryUser, Name: "ordinary_user", Capabilities: user, Changes: []RoleChanges{to(0, 2), to(2, 0)}},
		{Index: RoleGroupAdmin, Name: "group_admin", Capabilities: admin, MinParticipants: 1, Changes: adminChanges},
		{Index: RoleSuperAdmin, Name: "super_admin", Capabilities: super, Changes: superAdminChanges},
		policyEnforcer(RolePolicyEnforcer, to(0, 1), to(1, 0), to(2, 0, 1), to(3, 0, 1), to(4, 0, 1)),
	}
}

func strictRoles() RoleData {
	user := []Capability{
		CanAddOwnClient, CanJoinIfPreauthorized, CanRemoveOwnClient, CanRemoveSelf, CanChangeOwnRole,
		CanSendMessage, CanReceiveMessage, CanCopyMessage, CanReportAbuse, CanReactToMessage, CanDeleteOwnReaction,
		CanEditOwnMessage, CanDeleteOwnMessage, CanStartTopic, CanReplyInTopic,
		CanUploadImage, CanUploadVideo, CanUploadAudio, CanUploadAttachment,
		CanDownloadImage, CanDownloadVideo, CanDownloadAudio, CanDownloadAttachment,
		CanSendLink, CanSendLinkPreview, CanFollowLink, CanCopyLink,
		CanChangeOwnName, CanChangeOwnPresence, CanChangeOwnMood, CanChangeOwnAvatar,
	}
	admin := with(user, CanAddParticipant, CanRemoveParticipant, CanBan, CanUnban, CanKick, CanChangeUserRole,
		CanCreateJoinCode, CanDeleteJoinCode, CanDeleteOtherReaction, CanDeleteOtherMessage, CanEditOwnTopic,
		CanEditOtherTopic, CanChangeRoomDescription, CanChangeRoomName, CanChangeRoomAvatar, CanChangeRoomSubject,
		CanChangeRoomMood)
	super := with(admin, CanChangeRoomMembershipStyle, CanChangeRoleDefinitions, CanChangePreauthorizedUserList,
		CanDestroyRoom, CanSendMLSReInitProposal)
	return RoleData{
		{Index: RoleNone, Name: "no_role", Capabilities: []Capability{CanUseJoinCode}, MaxActive: u32(0), Changes: []RoleChanges{to(0, 2)}},
		bannedRole(),
		{Index: RoleOrdinaryUser, Name: "ordinary_user", Capabilities: user, Changes: []RoleChanges{to(0, 2), to(2, 0)}},
		{Index: RoleGroupAdmin, Name: "group_admin", Capabilities: admin, MinParticipants: 1, Changes: adminChanges},
		{Index: RoleSuperAdmin, Name: "super_admin", Capabilities: super, Changes: superAdminChanges},
		policyEnforcer(RolePolicyEnforcer, to(0, 1), to(1, 0), to(2, 0, 1), to(3, 0, 1), to(4, 0, 1)),
	}
}

func moderatedRoles() RoleData {
	guest := []Capability{
		CanRemoveSelf, CanReceiveMessage, CanCopyMessage, CanReactToMessage, CanDeleteOwnReaction, CanFollowLink,
		CanCopyLink, CanDownloadImage, CanDownloadVideo, CanDownloadAudio,
	}
	attendee := with(guest, CanAddOwnClient, CanJoinIfPreauthorized, CanRemoveOwnClient, CanChangeOwnRole,
		CanReportAbuse, CanReplyInTopic, CanDownloadAttachment, CanChangeOwnName, CanChangeOwnPresence,
		CanChangeOwnAvatar)
	// The example builds the speaker on "a speaker" and the moderator on "an ordinary_user", which it does not
	// have: the role before is meant.
	speaker := with(attendee, CanSendMessage, CanEditOwnMessage, CanDeleteOwnMessage, CanStartTopic, CanUploadImage,
		CanUploadVideo, CanUploadAudio, CanUploadAttachment, CanSendLink, CanSendLinkPreview)
	moderator := with(speaker, CanAddParticipant, CanRemoveParticipant, CanBan, CanUnban, CanKick, CanChangeUserRole,
		CanCreateJoinCode, CanDeleteJoinCode, CanDeleteOtherReaction, CanDeleteOtherMessage, CanEditOwnTopic,
		CanEditOtherTopic, CanChangeRoomName, CanChangeRoomAvatar, CanChangeRoomSubject, CanChangeRoomMood)
	super := with(moderator, CanChangeRoomDescription, CanChangeRoomMembershipStyle, CanChangeRoleDefinitions,
		CanChangePreauthorizedUserList, CanDestroyRoom, CanSendMLSReInitProposal)
	return RoleData{
		{Index: RoleNone, Name: "no_role", Capabilities: []Capability{CanUseJoinCode}, Changes: []RoleChanges{to(0, 2, 3)}},
		bannedRole(),
		{Index: RoleGuest, Name: "guest", Capabilities: guest, Changes: []RoleChanges{to(0, 2), to(2, 0)}},
		{Index: RoleAttendee, Name: "attendee", Capabilities: attendee, Changes: []RoleChanges{to(0, 3), to(3, 0)}},
		{Index: RoleSpeaker, Name: "speaker", Capabilities: speaker, Changes: []RoleChanges{to(0, 4), to(4, 0)}},
		{Index: RoleModerator, Name: "moderator", Capabilities: moderator, MinParticipants: 1, Changes: []RoleChanges{
			to(0, 1, 2, 3, 4, 5), to(1, 0, 2, 3, 4, 5), to(2, 0, 1, 3, 4, 5), to(3, 0, 1, 2, 4, 5), to(4, 0, 1, 2, 3, 5),
			to(5, 0, 1, 2, 3, 4)}},
		{Index: RoleModeratedSuperAdmin, Name: "super_admin", Capabilities: super, Changes: []RoleChanges{
			to(0, 1, 2, 3, 4, 5, 6), to(1, 0, 2, 3, 4, 5, 6), to(2, 0, 1, 3, 4, 5, 6), to(3, 0, 1, 2, 4, 5, 6),
			to(4, 0, 1, 2, 3, 5, 6), to(5, 0, 1, 2, 3, 4, 6), to(6, 0, 1, 2, 3, 4, 5)}},
		policyEnforcer(RoleModeratedPolicyEnforcer,
			to(0, 1), to(1, 0), to(2, 0, 1), to(3, 0, 1), to(4, 0, 1), to(5, 0, 1), to(6, 0, 1)),
	}
}

// directRoles: the participants of a direct message are equals; none can add, remove or ban another.
func directRoles() RoleData {
	user := []Capability{
		CanAddOwnClient, CanRemoveOwnClient,
		CanSendMessage, CanReceiveMessage, CanCopyMessage, CanReportAbuse, CanReplyToMessage, CanReactToMessage,
		CanEditReaction, CanDeleteOwnReaction, CanEditOwnMessage, CanDeleteOwnMessage, CanStartTopic, CanReplyInTopic,
		CanEditOwnTopic, CanUploadImage, CanUploadVideo, CanUploadAudio, CanUploadAttachment,
		CanDownloadImage, CanDownloadVideo, CanDownloadAudio, CanDownloadAttachment,
		CanSendLink, CanSendLinkPreview, CanFollowLink, CanCopyLink,
		CanChangeRoomName, CanChangeRoomAvatar, CanChangeRoomSubject, CanChangeRoomMood,
		CanChangeOwnName, CanChangeOwnPresence, CanChangeOwnMood, CanChangeOwnAvatar,
	}
	return RoleData{
		{Index: RoleNone, Name: "no_role", MaxActive: u32(0)},
		bannedRole(),
		{Index: RoleOrdinaryUser, Name: "ordinary_user", Capabilities: user},
		policyEnforcer(RolePolicyEnforcer, to(0, 1), to(1, 0), to(2, 0, 1)),
	}
}
