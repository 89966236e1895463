package policy

import (
	"fmt"
	"strings"

	"github.com/mimibridge/mimibridge/core/mls"
)

// Components of MIMI in the app_data_dictionary, with the numbers the drafts suggest
// (draft-ietf-mimi-protocol section "IANA Considerations", draft-ietf-mimi-room-policy section "New MLS
// application components").
const (
	ComponentFrankAAD           mls.ComponentID = 0x0020 // in authenticated data only
	ComponentFrankingAgent      mls.ComponentID = 0x0021
	ComponentParticipantList    mls.ComponentID = 0x0022
	ComponentRoomMetadata       mls.ComponentID = 0x0023
	ComponentOperational        mls.ComponentID = 0x0024
	ComponentRolesList          mls.ComponentID = 0x0025
	ComponentPreAuthList        mls.ComponentID = 0x0026
	ComponentBaseRoomPolicy     mls.ComponentID = 0x0027
	ComponentStatusNotification mls.ComponentID = 0x0028
	ComponentJoinLinkPolicy     mls.ComponentID = 0x0029
	ComponentJoinLinks          mls.ComponentID = 0x002a
	ComponentLinkPreview        mls.ComponentID = 0x002b
	ComponentAssetPolicy        mls.ComponentID = 0x002c
	ComponentLogging            mls.ComponentID = 0x002d
	ComponentChatHistory        mls.ComponentID = 0x002e
	ComponentBot                mls.ComponentID = 0x002f
	ComponentMessageExpiration  mls.ComponentID = 0x0030
)

// ComponentName is the drafts' name of a component, or its number.
func ComponentName(id mls.ComponentID) string {
	switch id {
	case mls.ComponentAppComponents:
		return "app_components"
	case mls.ComponentSafeAAD:
		return "safe_aad"
	case mls.ComponentContentMediaTypes:
		return "content_media_types"
	case ComponentFrankAAD:
		return "frank_aad"
	}
	if c, ok := components[id]; ok {
		return c.name
	}
	return fmt.Sprintf("component 0x%04x", uint16(id))
}

// component says how a component is changed by AppDataUpdate.
type component struct {
	name string
	// check parses the data that replaces the old; nil where apply is set.
	check func([]byte) error
	// apply gives the new data of a component whose updates are no replacement.
	apply func(old []byte, updates [][]byte) ([]byte, error)
	// once: more than one update a commit is not valid.
	once bool
}

// components are those this package knows in a GroupContext. An update of any other is invalid
// (draft-ietf-mls-extensions section "Updating Application Data in the GroupContext").
var components map[mls.ComponentID]component

func init() {
	components = map[mls.ComponentID]component{
		mls.ComponentAppComponents:     {name: "app_components", check: checks(parseComponentsList)},
		mls.ComponentSafeAAD:           {name: "safe_aad", check: checks(parseComponentsList)},
		mls.ComponentContentMediaTypes: {name: "content_media_types", check: checks(ParseMediaTypes)},

		ComponentFrankingAgent:      {name: "franking_agent", check: checks(parseFrankingAgent)},
		ComponentParticipantList:    {name: "participant_list", apply: applyParticipants},
		ComponentRoomMetadata:       {name: "room_metadata", check: checks(ParseRoomMetadata), once: true},
		ComponentOperational:        {name: "mls_operational_policy", check: checks(ParseOperationalParameters)},
		ComponentRolesList:          {name: "roles_list", check: checks(ParseRoleData)},
		ComponentPreAuthList:        {name: "preauth_list", check: checks(ParsePreAuthData)},
		ComponentBaseRoomPolicy:     {name: "base_room_policy", check: checks(ParseBaseRoomPolicy)},
		ComponentStatusNotification: {name: "status_notification_policy", check: checks(ParseStatusNotificationPolicy)},
		ComponentJoinLinkPolicy:     {name: "join_link_policy", check: checks(ParseJoinLinkPolicy)},
		ComponentJoinLinks:          {name: "join_links", apply: applyJoinLinks},
		ComponentLinkPreview:        {name: "link_preview_policy", check: checks(ParseLinkPreviewPolicy)},
		ComponentAssetPolicy:        {name: "asset_policy", check: checks(ParseAssetPolicy)},
		ComponentLogging:            {name: "logging_policy", check: checks(ParseLoggingPolicy)},
		ComponentChatHistory:        {name: "chat_history_policy", check: checks(ParseHistoryPolicy)},
		ComponentBot:                {name: "bot_policy", check: checks(ParseBotPolicy)},
		ComponentMessageExpiration:  {name: "message_expiration_policy", check: checks(ParseMessageExpiration)},
	}
}

func checks[T any](parse func([]byte) (T, error)) func([]byte) error {
	return func(b []byte) error { _, err := parse(b); return err }
}

// ApplyAppData gives the new data of a component from the old (nil if absent) and the updates of one commit in
// their order. It is the callback of mls.Config.ApplyAppData: every member and the hub must come to the same
// octets, so it judges only what the component's definition demands and never who proposed it. It keeps the
// spelling of URIs that it does not change. An error means the commit is not valid; it wraps a fault of kind
// Malformed. Safe for concurrent use.
func ApplyAppData(id mls.ComponentID, old []byte, updates [][]byte) ([]byte, error) {
	c, ok := components[id]
	if !ok {
		return nil, malformed(ComponentName(id), fmt.Errorf("not known in a GroupContext"))
	}
	if len(updates) == 0 {
		return nil, malformed(c.name, fmt.Errorf("no update"))
	}
	if c.apply != nil {
		return c.apply(old, updates)
	}
	if c.once && len(updates) > 1 {
		return nil, malformed(c.name, fmt.Errorf("%d updates in one commit", len(updates)))
	}
	for _, u := range updates {
		if err := c.check(u); err != nil {
			return nil, err
		}
	}
	return updates[len(updates)-1], nil
}

// Capability is a value of the registry "MIMI Role Capabilities" (draft-ietf-mimi-room-policy section
// "New MIMI Role Capabilities registry"). Values from 0xf000 are for private use.
type Capability uint16

// Capabilities, by their names in the registry.
const (
	CanAddParticipant      Capability = 0x0000
	CanRemoveParticipant   Capability = 0x0001
	CanAddOwnClient        Capability = 0x0002
	CanRemoveOwnClient     Capability = 0x0003
	CanOpenJoin            Capability = 0x0004
	CanJoinIfPreauthorized Capability = 0x0005
	CanRemoveSelf          Capability = 0x0006
	CanCreateJoinCode      Capability = 0x0007 // reserved
	CanDeleteJoinCode      Capability = 0x0008 // reserved
	CanUseJoinCode         Capability = 0x0009
	CanBan                 Capability = 0x000a
	CanUnban               Capability = 0x000b
	CanKick                Capability = 0x000c
	CanKnock               Capability = 0x000d // reserved
	CanAcceptKnock         Capability = 0x000e // reserved
	CanChangeUserRole      Capability = 0x000f
	CanChangeOwnRole       Capability = 0x0010
	CanCreateSubgroup      Capability = 0x0011 // reserved

	CanSendMessage         Capability = 0x0100
	CanReceiveMessage      Capability = 0x0101
	CanCopyMessage         Capability = 0x0102
	CanReportAbuse         Capability = 0x0103
	CanReplyToMessage      Capability = 0x0104
	CanReactToMessage      Capability = 0x0105
	CanEditReaction        Capability = 0x0106
	CanDeleteOwnReaction   Capability = 0x0107
	CanDeleteOtherReaction Capability = 0x0108
	CanEditOwnMessage      Capability = 0x0109
	CanDeleteOwnMessage    Capability = 0x010a
	CanDeleteOtherMessage  Capability = 0x010b
	CanStartTopic          Capability = 0x010c
	CanReplyInTopic        Capability = 0x010d
	CanEditOwnTopic        Capability = 0x010e
	CanEditOtherTopic      Capability = 0x010f
	CanSendDirectMessage   Capability = 0x0110 // reserved
	CanTargetMessage       Capability = 0x0111 // reserved

	CanUploadImage        Capability = 0x0200
	CanUploadAudio        Capability = 0x0201
	CanUploadVideo        Capability = 0x0202
	CanUploadAttachment   Capability = 0x0203
	CanDownloadImage      Capability = 0x0204
	CanDownloadAudio      Capability = 0x0205
	CanDownloadVideo      Capability = 0x0206
	CanDownloadAttachment Capability = 0x0207
	CanSendLink           Capability = 0x0208
	CanSendLinkPreview    Capability = 0x0209
	CanFollowLink         Capability = 0x020a
	CanCopyLink           Capability = 0x020b

	CanChangeRoomName        Capability = 0x0300
	CanChangeRoomDescription Capability = 0x0301
	CanChangeRoomAvatar      Capability = 0x0302
	CanChangeRoomSubject     Capability = 0x0303
	CanChangeRoomMood        Capability = 0x0304
	CanChangeOwnName         Capability = 0x0380 // reserved
	CanChangeOwnPresence     Capability = 0x0381 // reserved
	CanChangeOwnMood         Capability = 0x0382 // reserved
	CanChangeOwnAvatar       Capability = 0x0383 // reserved

	CanStartCall        Capability = 0x0400
	CanJoinCall         Capability = 0x0401
	CanSendAudio        Capability = 0x0402
	CanReceiveAudio     Capability = 0x0403
	CanSendVideo        Capability = 0x0404
	CanReceiveVideo     Capability = 0x0405
	CanShareScreen      Capability = 0x0406
	CanViewSharedScreen Capability = 0x0407

	CanCreateRoom                  Capability = 0x0500 // reserved
	CanDestroyRoom                 Capability = 0x0501
	CanChangeRoomMembershipStyle   Capability = 0x0502
	CanChangeRoleDefinitions       Capability = 0x0503
	CanChangePreauthorizedUserList Capability = 0x0504
	CanChangeOtherPolicyAttribute  Capability = 0x0505 // reserved

	CanChangeMLSOperationalPolicies Capability = 0x0600 // reserved
	CanSendMLSReInitProposal        Capability = 0x0601
	CanSendMLSUpdateProposal        Capability = 0x0602 // reserved
	CanSendMLSPSKProposal           Capability = 0x0603 // reserved
	CanSendMLSExternalProposal      Capability = 0x0604 // reserved
	CanSendMLSExternalCommit        Capability = 0x0605 // reserved
)

// capabilityNames follow the registry, in the blocks of its numbers.
var capabilityNames = func() map[Capability]string {
	m := make(map[Capability]string)
	for first, names := range map[Capability]string{
		0x0000: "canAddParticipant canRemoveParticipant canAddOwnClient canRemoveOwnClient canOpenJoin " +
			"canJoinIfPreauthorized canRemoveSelf canCreateJoinCode canDeleteJoinCode canUseJoinCode canBan canUnBan " +
			"canKick canKnock canAcceptKnock canChangeUserRole canChangeOwnRole canCreateSubgroup",
		0x0100: "canSendMessage canReceiveMessage canCopyMessage canReportAbuse canReplyToMessage canReactToMessage " +
			"canEditReaction canDeleteOwnReaction canDeleteOtherReaction canEditOwnMessage canDeleteOwnMessage " +
			"canDeleteOtherMessage canStartTopic canReplyInTopic canEditOwnTopic canEditOtherTopic " +
			"canSendDirectMessage canTargetMessage",
		0x0200: "canUploadImage canUploadAudio canUploadVideo canUploadAttachment canDownloadImage canDownloadAudio " +
			"canDownloadVideo canDownloadAttachment canSendLink canSendLinkPreview canFollowLink canCopyLink",
		0x0300: "canChangeRoomName canChangeRoomDescription canChangeRoomAvatar canChangeRoomSubject canChangeRoomMood",
		0x0380: "canChangeOwnName canChangeOwnPresence canChangeOwnMood canChangeOwnAvatar",
		0x0400: "canStartCall canJoinCall canSendAudio canReceiveAudio canSendVideo canReceiveVideo canShareScreen " +
			"canViewSharedScreen",
		0x0500: "canCreateRoom canDestroyRoom canChangeRoomMembershipStyle canChangeRoleDefinitions " +
			"canChangePreauthorizedUserList canChangeOtherPolicyAttribute",
		0x0600: "canChangeMlsOperationalPolicies canSendMLSReinitProposal canSendMLSUpdateProposal " +
			"canSendMLSPSKProposal canSendMLSExternalProposal canSendMLSExternalCommit",
	} {
		for i, n := range strings.Fields(names) {
			m[first+Capability(i)] = n
		}
	}
	return m
}()

// String is the registry's name, or the number.
func (c Capability) String() string {
	if n, ok := capabilityNames[c]; ok {
		return n
	}
	return fmt.Sprintf("capability 0x%04x", uint16(c))
}
