package policy

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
)

// Actor is who proposes something: a user by one of their clients, or the hub as external sender, under the URI by
// which it is listed (zero if it is not).
type Actor struct {
	User mimiuri.URI
	Hub  bool
}

// change is a proposal and who made it.
type change struct {
	by     Actor
	client mimiuri.URI // of the proposer; zero for the hub
	joiner bool        // the proposer is not in the group yet
	body   mls.ProposalBody
	self   mls.LeafIndex // the proposer's leaf, for a SelfRemove
	byRef  bool
}

// leafID is what a leaf's credential says.
type leafID struct {
	user, client mimiuri.URI
	node         *mls.LeafNode
}

// leaves are the members by their place in the tree.
type leaves map[mls.LeafIndex]leafID

// identify reads the credentials of members; those of old are taken from there if the leaf is the very same.
func identify(members []mls.Member, old leaves) (leaves, error) {
	l := make(leaves, len(members))
	for _, m := range members {
		if o, ok := old[m.Leaf]; ok && o.node == m.Node {
			l[m.Leaf] = o
			continue
		}
		user, client, err := LeafUser(m.Node)
		if err != nil {
			return nil, &Denied{"credential", "a client's credential does not name the client and its user"}
		}
		l[m.Leaf] = leafID{user, client, m.Node}
	}
	return l, nil
}

// Active reports whether a user is listed and has a client among the members.
func (s *State) Active(user mimiuri.URI, members []mls.Member) bool {
	if s.indexOf(user) < 0 {
		return false
	}
	is := func(m mls.Member) bool {
		u, _, err := LeafUser(m.Node)
		return err == nil && u == user
	}
	// A hub asks this for each message. Credentials that are spelt as we spell them are found without reading
	// all the others.
	usual := []byte(ClientURI(user, "").String())
	return slices.ContainsFunc(members, func(m mls.Member) bool {
		return m.Node != nil && bytes.HasPrefix(m.Node.Credential.Identity, usual) && is(m)
	}) || slices.ContainsFunc(members, is)
}

// CheckMembers judges the members of a group as they are, as for one that has just been created: each belongs to a
// listed user whose role may have clients, and the base policy's limits hold.
func (s *State) CheckMembers(members []mls.Member) error {
	now, err := identify(members, nil)
	if err != nil {
		return err
	}
	j := s.judge(nil)
	return denied(j.outcome(now))
}

// CheckCommit judges a commit that MLS finds valid. s is the state before it, members are the group's before it,
// from is the provider domain that sent it, and hubSenderIndex is the hub's place in external_senders. The error
// is a *Denied. s should know what is pending ([State.WithPending]): whoever a pending proposal removes or bans, or
// whose leaf it removes, does not commit. That a commit leaves out pending proposals is not judged here.
func (s *State) CheckCommit(c *mls.StagedPublicCommit, from string, members []mls.Member, hubSenderIndex uint32) error {
	return denied(s.checkCommit(c, from, members, hubSenderIndex))
}

// denied turns a nil *Denied into a nil error.
func denied(err error) error {
	var d *Denied
	switch {
	case err == nil:
		return nil
	case errors.As(err, &d):
		return d
	}
	return &Denied{"app_data_dictionary", "the change of the room's state is not valid"}
}

func (s *State) checkCommit(c *mls.StagedPublicCommit, from string, members []mls.Member, hubSenderIndex uint32) error {
	before, err := identify(members, nil)
	if err != nil {
		return err
	}
	committer, err := s.committer(c, from, before)
	if err != nil {
		return err
	}

	var changes []change
	for _, p := range c.Proposals {
		var ch change
		switch {
		case !p.ByRef:
			ch = committer
		case p.Sender.Type == mls.SenderExternal && p.Sender.Index != hubSenderIndex:
			return deny("external_senders", "only the hub sends proposals from outside")
		default:
			if ch, err = s.proposer(p.Sender, p.Proposal.Body, before); err != nil {
				return err
			}
		}
		ch.body, ch.byRef = p.Proposal.Body, p.ByRef
		changes = append(changes, ch)
	}

	j := s.judge(before)
	j.commit = c
	if err := j.state(changes); err != nil {
		return err
	}
	if c.External {
		if err := j.join(committer, c); err != nil {
			return err
		}
	} else {
		j.destruction(committer.by.User)
	}
	for _, ch := range changes {
		if err := j.authorize(ch); err != nil {
			return err
		}
	}
	after, err := identify(c.NewMembers(), before)
	if err != nil {
		return err
	}
	if err := j.sameClients(after, c); err != nil {
		return err
	}
	if err := j.outcome(after); err != nil {
		return err
	}
	return j.dictionary(c.NewAppData)
}

// committer says who commits and whether they may: a leaf of the acting user, sent by that user's provider.
func (s *State) committer(c *mls.StagedPublicCommit, from string, before leaves) (change, error) {
	ch := change{}
	switch {
	case c.External:
		user, client, err := LeafUser(c.SenderLeaf)
		if err != nil {
			return ch, deny("credential", "the joining client's credential does not name the client and its user")
		}
		ch = change{by: Actor{User: user}, client: client, joiner: true}
	case c.Sender.Type == mls.SenderMember:
		l, ok := before[c.Sender.Leaf]
		if !ok {
			return ch, deny("sender", "the sender is no member")
		}
		if s.pendingRemoval(c.Sender.Leaf) {
			return ch, deny("removed participant", "a client that is being removed does not commit")
		}
		ch = change{by: Actor{User: l.user}, client: l.client, self: c.Sender.Leaf}
	default:
		return ch, deny("sender", "only clients commit")
	}
	if !strings.EqualFold(ch.by.User.Domain, from) {
		return ch, deny("From", "the client belongs to another provider")
	}
	if ch.joiner && s.indexOf(ch.by.User) < 0 {
		return ch, nil // join judges who is not listed yet
	}
	return ch, s.checkTakesPart(ch.by.User)
}

// proposer says who sent a proposal. For a proposal from a new member that is the user of the client it adds.
func (s *State) proposer(sender mls.Sender, body mls.ProposalBody, before leaves) (change, error) {
	switch sender.Type {
	case mls.SenderMember:
		l, ok := before[sender.Leaf]
		if !ok {
			return change{}, deny("sender", "the sender is no member")
		}
		return change{by: Actor{User: l.user}, client: l.client, self: sender.Leaf}, nil
	case mls.SenderExternal:
		return change{by: Actor{User: s.Hub(), Hub: true}}, nil
	case mls.SenderNewMemberProposal:
		if add, ok := body.(*mls.Add); ok {
			user, client, err := LeafUser(&add.KeyPackage.LeafNode)
			if err != nil {
				return change{}, deny("credential", "the joining client's credential does not name the client and its user")
			}
			return change{by: Actor{User: user}, client: client, joiner: true}, nil
		}
	}
	return change{}, deny("sender", "this sender may not propose that")
}

// CheckProposals judges a bundle of standalone proposals from a provider before the hub keeps them for the next
// commit. members are the group's. s should know what is pending already ([State.WithPending]): the bundle must make
// one valid commit together with that, else nobody could commit any more. External proposals are taken for the hub's if
// from is the hub's domain. The error is a *Denied.
func (s *State) CheckProposals(ps []mls.PendingProposal, from string, members []mls.Member) error {
	return denied(s.checkProposals(ps, from, members))
}

func (s *State) checkProposals(ps []mls.PendingProposal, from string, members []mls.Member) error {
	before, err := identify(members, nil)
	if err != nil {
		return err
	}
	fresh, err := s.changes(ps, before)
	if err != nil {
		return err
	}
	for _, ch := range fresh {
		switch {
		case ch.by.Hub:
			if h := s.Hub(); !strings.EqualFold(h.Domain, from) && !strings.EqualFold(s.Metadata.Room.Domain, from) {
				return deny("external_senders", "only the hub sends proposals from outside")
			}
		case !strings.EqualFold(ch.by.User.Domain, from):
			return deny("From", "the client belongs to another provider")
		case s.leaving[ch.by.User] || s.Banned(ch.by.User):
			if !ownRemoval(ch, before) {
				return deny("removed participant", "who has been removed may only remove their clients")
			}
		}
	}
	all := slices.Concat(s.pending, fresh)
	j := s.judge(before)
	if err := j.state(all); err != nil {
		return err
	}
	for _, ch := range fresh {
		if err := j.authorize(ch); err != nil {
			return err
		}
	}
	after, err := j.leavesAfter(s.pending, fresh)
	if err != nil {
		return err
	}
	return j.outcome(after)
}

// changes are proposals with their proposers.
func (s *State) changes(ps []mls.PendingProposal, before leaves) ([]change, error) {
	out := make([]change, 0, len(ps))
	for _, p := range ps {
		ch, err := s.proposer(p.Sender, p.Proposal.Body, before)
		if err != nil {
			return nil, err
		}
		ch.body, ch.byRef = p.Proposal.Body, true
		out = append(out, ch)
	}
	return out, nil
}

// WithPending gives the state that also knows the proposals the hub has accepted and nobody has committed yet: a
// removed or banned user may from then on only remove their own clients (draft-ietf-mimi-protocol section "Update
// Room State"). members are the group's.
func (s *State) WithPending(ps []mls.PendingProposal, members []mls.Member) *State {
	t := *s
	t.pending, t.leaving = nil, make(map[mimiuri.URI]bool)
	senders := make(map[mls.LeafIndex]bool)
	for _, p := range ps {
		if p.Sender.Type == mls.SenderMember {
			senders[p.Sender.Leaf] = true
		}
	}
	before := make(leaves, len(senders))
	for _, m := range members {
		if !senders[m.Leaf] {
			continue
		}
		if user, client, err := LeafUser(m.Node); err == nil {
			before[m.Leaf] = leafID{user, client, m.Node}
		}
	}
	for _, p := range ps {
		chs, err := s.changes([]mls.PendingProposal{p}, before)
		if err != nil {
			continue
		}
		t.pending = append(t.pending, chs...)
		u, ok := participantUpdate(p.Proposal.Body)
		if !ok {
			continue
		}
		for _, i := range u.Removed {
			if int64(i) < int64(len(s.Participants)) {
				t.leaving[s.Participants[i].User] = true
			}
		}
		for _, c := range u.Changed {
			if int64(c.Index) < int64(len(s.Participants)) && s.Roles.banned(c.Role) {
				t.leaving[s.Participants[c.Index].User] = true
			}
		}
	}
	return &t
}

// pendingRemoval reports whether a pending proposal removes a leaf.
func (s *State) pendingRemoval(leaf mls.LeafIndex) bool {
	return slices.ContainsFunc(s.pending, func(ch change) bool {
		l, ok := ch.removes()
		return ok && l == leaf
	})
}

// removes is the leaf that a Remove or SelfRemove takes out.
func (ch change) removes() (mls.LeafIndex, bool) {
	switch b := ch.body.(type) {
	case *mls.Remove:
		return b.Removed, true
	case *mls.SelfRemove:
		return ch.self, true
	}
	return 0, false
}

// ownRemoval: a Remove or SelfRemove of a client of the proposer's own.
func ownRemoval(ch change, before leaves) bool {
	leaf, ok := ch.removes()
	l, member := before[leaf]
	return ok && member && l.user == ch.by.User
}

func participantUpdate(body mls.ProposalBody) (ParticipantListUpdate, bool) {
	a, ok := body.(*mls.AppDataUpdate)
	if !ok || a.ComponentID != ComponentParticipantList || a.Op != mls.AppDataOpUpdate {
		return ParticipantListUpdate{}, false
	}
	u, err := ParseParticipantListUpdate(a.Update)
	return u, err == nil
}

// judge holds a set of proposals against a state.
type judge struct {
	s      *State
	before leaves
	commit *mls.StagedPublicCommit // nil for standalone proposals

	// What the room is afterwards.
	list    ParticipantList
	role    map[mimiuri.URI]uint32
	roles   RoleData
	base    *BaseRoomPolicy
	touched map[mls.ComponentID]bool

	// destroys is who destroys the room by this commit, zero if nobody does: see destruction.
	destroys mimiuri.URI
}

func (s *State) judge(before leaves) *judge {
	j := &judge{s: s, before: before, list: s.Participants, roles: s.Roles, base: s.Base, touched: make(map[mls.ComponentID]bool)}
	j.indexRoles()
	return j
}

func (j *judge) indexRoles() {
	j.role = make(map[mimiuri.URI]uint32, len(j.list))
	for _, p := range j.list {
		j.role[p.User] = p.Role
	}
}

// state works out the room's state afterwards and holds it against the rules for the state as such.
func (j *judge) state(changes []change) error {
	var lists []ParticipantListUpdate
	onlyRemovals := true
	seen := make(map[mls.ComponentID]int)
	for _, ch := range changes {
		if _, ok := ch.body.(*mls.ReInit); ok && len(changes) > 1 {
			return deny("ReInit", "the group is closed by a commit of its own")
		}
		a, ok := ch.body.(*mls.AppDataUpdate)
		if !ok {
			continue
		}
		c, ok := components[a.ComponentID]
		if !ok {
			return deny("AppDataUpdate", "%s is not known here", ComponentName(a.ComponentID))
		}
		j.touched[a.ComponentID] = true
		if seen[a.ComponentID]++; seen[a.ComponentID] > 1 && (c.apply == nil || a.Op != mls.AppDataOpUpdate) {
			return deny(c.name, "%s can be changed only once in a commit", c.name)
		}
		if a.Op != mls.AppDataOpUpdate {
			continue
		}
		if c.check != nil && c.check(a.Update) != nil {
			return deny(c.name, "the new %s is not valid", c.name)
		}
		switch a.ComponentID {
		case ComponentParticipantList:
			u, err := ParseParticipantListUpdate(a.Update)
			if err != nil {
				return deny(c.name, "the change of the participant list is not valid")
			}
			onlyRemovals = onlyRemovals && len(u.Added) == 0 && len(u.Changed) == 0
			lists = append(lists, u)
		case ComponentRolesList:
			j.roles, _ = ParseRoleData(a.Update)
		case ComponentBaseRoomPolicy:
			j.base, _ = ParseBaseRoomPolicy(a.Update)
		case ComponentJoinLinks:
			if _, err := ParseJoinLinksUpdate(a.Update); err != nil {
				return deny(c.name, "the change of the join links is not valid")
			}
		}
	}
	if len(lists) > 0 {
		if j.touched[ComponentRolesList] {
			return deny("roles_list", "roles cannot be redefined in the same commit as a change of the participant list")
		}
		if j.touched[ComponentPreAuthList] && !onlyRemovals {
			return deny("preauth_list", "preauthorized users cannot be redefined in the same commit as participants are added or changed")
		}
		var err error
		j.list, err = j.s.Participants.Apply(lists...)
		switch {
		case errors.Is(err, ErrTouchedTwice):
			return deny("participant_list: once per user", "the same user is changed more than once")
		case err != nil:
			return deny("participant_list", "the change of the participant list is not valid")
		}
		j.indexRoles()
	}
	for _, p := range j.list {
		if _, ok := j.roles.Get(p.Role); !ok {
			return deny("role_index", "a participant has a role that this room does not have")
		}
	}
	if j.touched[ComponentRolesList] || j.touched[ComponentBaseRoomPolicy] {
		if err := j.roles.Validate(j.base); err != nil {
			return deny("roles_list", "the roles are not valid: %s", err)
		}
	}
	return nil
}

// destruction notes a commit that destroys the room: its sender has canDestroyRoom, the room is persistent no more, and
// nobody is left on the list but them, the hub and the banned.
func (j *judge) destruction(by mimiuri.URI) {
	if j.base.PersistentRoom || !j.touched[ComponentBaseRoomPolicy] || !j.s.Role(by).Can(CanDestroyRoom) {
		return
	}
	for _, p := range j.list {
		if p.User.Kind == mimiuri.User && p.User != by && !j.roles.banned(p.Role) {
			return
		}
	}
	j.destroys = by
}

// roleAfter is the role of a user afterwards, and whether they are listed.
func (j *judge) roleAfter(user mimiuri.URI) (Role, bool) {
	i, ok := j.role[user]
	if !ok {
		i = RoleNone
	}
	r, defined := j.roles.Get(i)
	if !defined {
		r = Role{Index: i, MaxActive: u32(0)}
	}
	return r, ok
}

// out: the user may have no client in the group afterwards, so that removing one needs no further leave.
func (j *judge) out(user mimiuri.URI) bool {
	r, listed := j.roleAfter(user)
	return !listed || j.roles.banned(r.Index) || !r.MayHaveClients()
}

// authorize holds one proposal against what its proposer may do.
func (j *judge) authorize(ch change) error {
	role := j.s.Role(ch.by.User)
	if ch.by.User.IsZero() {
		role = Role{} // a hub that is not listed has not what strangers have either
	}
	switch b := ch.body.(type) {
	case *mls.Add:
		return j.add(ch, role, &b.KeyPackage.LeafNode)
	case *mls.Update:
		return nil // sameClients holds the new leaf against the old
	case *mls.Remove:
		return j.remove(ch, role, b.Removed)
	case *mls.SelfRemove:
		return j.selfRemove(ch, role)
	case *mls.AppDataUpdate:
		return j.appData(ch, role, b)
	case *mls.PreSharedKey:
		// A PSK that not everybody has makes a commit that not everybody can process, and the hub cannot tell.
		return need(role, CanSendMLSPSKProposal)
	case *mls.ReInit:
		return need(role, CanSendMLSReInitProposal)
	case *mls.GroupContextExtensions:
		if !ch.by.Hub {
			return deny("GroupContextExtensions", "only the hub changes the extensions of the group")
		}
		return need(role, CanChangeMLSOperationalPolicies)
	case *mls.ExternalInit:
		if !ch.joiner {
			return deny("ExternalInit", "only a joining client sends this")
		}
		return nil
	case *mls.AppEphemeral:
		if b.ComponentID != mls.ComponentAppAck {
			return deny("AppEphemeral", "%s is not known here", ComponentName(b.ComponentID))
		}
		return nil
	}
	return deny("proposal type", "proposals of this type are not known here")
}

func need(role Role, c Capability) error {
	if !role.Can(c) {
		return deny(c.String(), "your role in this room does not have %s", c)
	}
	return nil
}

// add judges the addition of a client.
func (j *judge) add(ch change, role Role, node *mls.LeafNode) error {
	user, _, err := LeafUser(node)
	if err != nil {
		return deny("credential", "an added client's credential does not name the client and its user")
	}
	if err := j.addedClient(user); err != nil {
		return err
	}
	if user == ch.by.User || j.s.Base.FixedMembership {
		return need(role, CanAddOwnClient)
	}
	if err := need(role, CanAddParticipant); err != nil {
		return err
	}
	if r, _ := j.roleAfter(user); !role.MayChange(RoleNone, r.Index) {
		return deny("authorized_role_changes", "your role may not add clients of users with the role %q", r.Name)
	}
	return nil
}

// addedClient: only who is listed afterwards, and may have clients, gets one.
func (j *judge) addedClient(user mimiuri.URI) error {
	r, listed := j.roleAfter(user)
	switch {
	case !listed:
		return deny("participant_list", "a client was added whose user is not a participant")
	case j.roles.banned(r.Index):
		return deny("banned", "a client of a banned user was added")
	case !r.MayHaveClients():
		return deny("maximum_active_participants_constraint", "the role %q may not have clients", r.Name)
	}
	return nil
}

// remove judges a Remove.
func (j *judge) remove(ch change, role Role, leaf mls.LeafIndex) error {
	l, ok := j.before[leaf]
	switch {
	case !ok:
		return deny("Remove", "there is no such client")
	case ch.joiner:
		return nil // in an external commit, where join has judged what the joining client replaces
	case j.out(l.user), ch.by.Hub:
		return nil
	case l.user == ch.by.User:
		return need(role, CanRemoveOwnClient)
	}
	return need(role, CanKick)
}

// selfRemove judges a SelfRemove, which is always of the proposer's own leaf.
func (j *judge) selfRemove(ch change, role Role) error {
	if j.out(ch.by.User) || j.s.leaving[ch.by.User] {
		return nil
	}
	// In a commit it may stand without the rest of its bundle, since an external commit carries only SelfRemoves;
	// the bundle was whole when the hub took it.
	if j.commit != nil && role.Can(CanRemoveSelf) {
		return nil
	}
	return need(role, CanRemoveOwnClient)
}

// join judges an external commit apart from its proposals: who comes in, and whom they replace.
func (j *judge) join(ch change, c *mls.StagedPublicCommit) error {
	role := j.s.Role(ch.by.User)
	if err := j.addedClient(ch.by.User); err != nil {
		return err
	}
	same := false
	for _, p := range c.Proposals {
		r, ok := p.Proposal.Body.(*mls.Remove)
		if !ok {
			continue
		}
		l := j.before[r.Removed]
		if l.user != ch.by.User {
			return deny("resync", "a joining client may replace only a client of its own user")
		}
		if same = l.client == ch.client; !same {
			if err := need(role, CanRemoveOwnClient); err != nil {
				return err
			}
		}
	}
	if same || j.s.indexOf(ch.by.User) < 0 {
		return nil // nothing new comes in, or the addition to the list says who may
	}
	return need(role, CanAddOwnClient)
}

// appData judges an AppDataUpdate.
func (j *judge) appData(ch change, role Role, a *mls.AppDataUpdate) error {
	name := ComponentName(a.ComponentID)
	if a.Op != mls.AppDataOpUpdate {
		switch a.ComponentID {
		case ComponentParticipantList, ComponentRolesList, ComponentBaseRoomPolicy, ComponentRoomMetadata,
			ComponentFrankingAgent, mls.ComponentAppComponents, mls.ComponentSafeAAD:
			return deny(name, "a room does not go without %s", name)
		}
	}
	switch a.ComponentID {
	case ComponentParticipantList:
		return j.participants(ch, role, a.Update)
	case ComponentRolesList:
		return need(role, CanChangeRoleDefinitions)
	case ComponentPreAuthList:
		return need(role, CanChangePreauthorizedUserList)
	case ComponentBaseRoomPolicy:
		if !j.destroys.IsZero() && ch.by.User == j.destroys {
			same := *j.s.Base
			same.PersistentRoom = false
			if bytes.Equal(a.Update, same.Marshal()) {
				return nil
			}
		}
		return need(role, CanChangeRoomMembershipStyle)
	case ComponentOperational:
		return need(role, CanChangeMLSOperationalPolicies)
	case ComponentRoomMetadata:
		m, err := ParseRoomMetadata(a.Update)
		if err != nil {
			return err
		}
		caps, ok := j.s.Metadata.needs(m)
		if !ok {
			return deny("room_metadata", "the room's URI does not change")
		}
		for _, c := range caps {
			if err := need(role, c); err != nil {
				return err
			}
		}
		return nil
	case ComponentJoinLinks:
		u := JoinLinksUpdate{Removed: []uint32{0}}
		if a.Op == mls.AppDataOpUpdate {
			var err error
			if u, err = ParseJoinLinksUpdate(a.Update); err != nil {
				return err
			}
		}
		if len(u.Added) > 0 {
			if err := need(role, CanCreateJoinCode); err != nil {
				return err
			}
		}
		if len(u.Removed) > 0 {
			return need(role, CanDeleteJoinCode)
		}
		return nil
	case ComponentFrankingAgent:
		if j.s.FrankingAgent != nil {
			return deny("franking_agent", "the franking agent changes only with a new group")
		}
		if ch.by.Hub {
			return nil
		}
	}
	if role.Can(CanChangeRoomMembershipStyle) {
		return nil
	}
	return need(role, CanChangeOtherPolicyAttribute)
}

// participants judges each change of an update of the participant list.
func (j *judge) participants(ch change, role Role, update []byte) error {
	u, err := ParseParticipantListUpdate(update)
	if err != nil {
		return err
	}
	for _, p := range u.Added {
		if err := j.addUser(ch, role, p); err != nil {
			return err
		}
	}
	for _, i := range u.Removed {
		if err := j.removeUser(ch, role, j.s.Participants[i]); err != nil {
			return err
		}
	}
	for _, c := range u.Changed {
		if err := j.changeRole(ch, role, j.s.Participants[c.Index], c.Role); err != nil {
			return err
		}
	}
	return nil
}

// addUser judges the addition of a user to the list, who is not on it.
func (j *judge) addUser(ch change, role Role, p Participant) error {
	if p.User.Kind != mimiuri.User {
		return deny("participant_list", "only users are added to the participant list")
	}
	if j.s.Base.FixedMembership {
		return deny("fixed_membership", "nobody can be added to this room")
	}
	if p.User == ch.by.User {
		return j.addSelf(ch, role, p)
	}
	if !(j.s.Roles.banned(p.Role) && role.Can(CanBan)) {
		if err := need(role, CanAddParticipant); err != nil {
			return err
		}
	}
	if !role.MayChange(RoleNone, p.Role) {
		return deny("authorized_role_changes", "your role may not add users with that role")
	}
	return nil
}

// addSelf judges a user who joins on their own, for which role is role 0.
func (j *judge) addSelf(ch change, role Role, p Participant) error {
	if !ch.joiner {
		return deny("canOpenJoin", "joining is done by an external commit")
	}
	if role.Can(CanOpenJoin) && role.MayChange(RoleNone, p.Role) {
		return nil
	}
	if target, ok := j.s.Roles.Get(p.Role); ok && target.Can(CanJoinIfPreauthorized) && j.s.PreAuth.firstRole() == p.Role {
		return nil
	}
	return deny("canOpenJoin", "this room does not let users join on their own with that role")
}

// removeUser judges taking a user off the list.
func (j *judge) removeUser(ch change, role Role, p Participant) error {
	if !j.destroys.IsZero() && ch.by.User == j.destroys && p.User.Kind == mimiuri.User {
		return nil
	}
	if j.s.Base.FixedMembership {
		return deny("fixed_membership", "nobody can leave this room or be removed from it")
	}
	if ch.by.Hub && p.User.Kind == mimiuri.User {
		return nil
	}
	c := CanRemoveParticipant
	switch {
	case p.User == ch.by.User:
		c = CanRemoveSelf
	case j.s.Roles.banned(p.Role) && role.Can(CanUnban): // who may give them another role may let them go
		c = CanUnban
	}
	if err := need(role, c); err != nil {
		return err
	}
	if !role.MayChange(p.Role, RoleNone) {
		return deny("authorized_role_changes", "your role may not remove users with that role")
	}
	return nil
}

// changeRole judges giving a listed user another role.
func (j *judge) changeRole(ch change, role Role, p Participant, target uint32) error {
	if p.User == ch.by.User {
		if err := need(role, CanChangeOwnRole); err != nil {
			return err
		}
		if first := j.s.PreAuth.firstRole(); first == RoleNone || first != target {
			return deny("canChangeOwnRole", "you are not preauthorized for that role")
		}
		return nil
	}
	if p.Role == target {
		return deny("participant_list", "the user has that role already")
	}
	needed, allowed := CanChangeUserRole, role.Can(CanChangeUserRole)
	switch {
	case j.s.Roles.banned(target):
		needed, allowed = CanBan, allowed || role.Can(CanBan)
	case j.s.Roles.banned(p.Role):
		needed, allowed = CanUnban, allowed || role.Can(CanUnban)
	}
	if !allowed {
		return need(role, needed)
	}
	if !role.MayChange(p.Role, target) {
		return deny("authorized_role_changes", "your role may not change that role to the new one")
	}
	return nil
}

// sameClients: a leaf that stays keeps its user and its client, whatever Update or path replaces it.
func (j *judge) sameClients(after leaves, c *mls.StagedPublicCommit) error {
	gone := make(map[mls.LeafIndex]bool)
	for _, r := range c.Removed {
		gone[r.Leaf] = true
	}
	for i, l := range after {
		if o, ok := j.before[i]; ok && !gone[i] && (o.user != l.user || o.client != l.client) {
			return deny("credential", "a client cannot become another one")
		}
	}
	return nil
}

// leavesAfter is who is in the group once the pending and the fresh proposals are committed. A leaf is removed once.
func (j *judge) leavesAfter(pending, fresh []change) (leaves, error) {
	after := make(leaves, len(j.before))
	var next mls.LeafIndex
	for i, l := range j.before {
		after[i] = l
		next = max(next, i+1)
	}
	going := make(map[mls.LeafIndex]bool)
	for k, ch := range slices.Concat(pending, fresh) {
		if leaf, ok := ch.removes(); ok {
			// A SelfRemove is taken though the leaf is being removed already: it is preferred to a Remove.
			if _, own := ch.body.(*mls.SelfRemove); k >= len(pending) && going[leaf] && !own {
				return nil, deny("Remove", "the client is being removed already")
			}
			going[leaf] = true
			delete(after, leaf)
		}
		switch b := ch.body.(type) {
		case *mls.Add:
			user, client, err := LeafUser(&b.KeyPackage.LeafNode)
			if err != nil {
				return nil, deny("credential", "an added client's credential does not name the client and its user")
			}
			after[next] = leafID{user, client, &b.KeyPackage.LeafNode}
			next++
		case *mls.Update:
			user, client, err := LeafUser(&b.LeafNode)
			if err != nil || user != ch.by.User || client != ch.client {
				return nil, deny("credential", "a client cannot become another one")
			}
		}
	}
	return after, nil
}

// outcome holds the room as it is afterwards against what no proposer can waive.
func (j *judge) outcome(after leaves) error {
	clients := make(map[mimiuri.URI]bool, len(after))
	users := make(map[mimiuri.URI]int)
	for _, l := range after {
		if j.out(l.user) {
			if err := j.addedClient(l.user); err != nil && j.s.indexOf(l.user) < 0 {
				return err
			}
			return deny("clients of a removed participant",
				"a participant who is removed or banned loses all clients in the same commit")
		}
		if clients[l.client] {
			return deny("client", "a client is in the group once")
		}
		clients[l.client] = true
		users[l.user]++
	}
	usersBefore := make(map[mimiuri.URI]int)
	for _, l := range j.before {
		usersBefore[l.user]++
	}
	if !j.base.MultiDevice {
		for u, n := range users {
			if n > 1 && n > usersBefore[u] {
				return deny("multi_device", "a user may have only one client in this room")
			}
		}
	}
	if m := j.base.MaxClients; m != nil && len(after) > int(*m) && len(after) > len(j.before) {
		return deny("max_clients", "this room may not have more clients")
	}
	n, was := unbanned(j.list, j.roles), unbanned(j.s.Participants, j.s.Roles)
	if m := j.base.MaxUsers; m != nil && n > int(*m) && n > was {
		return deny("max_users", "this room may not have more participants")
	}
	return j.constraints(users, usersBefore)
}

func unbanned(l ParticipantList, roles RoleData) int {
	n := 0
	for _, p := range l {
		if !roles.banned(p.Role) {
			n++
		}
	}
	return n
}

type tally struct{ all, active int }

func count(l ParticipantList, users map[mimiuri.URI]int) map[uint32]tally {
	m := make(map[uint32]tally)
	for _, p := range l {
		t := m[p.Role]
		t.all++
		if users[p.User] > 0 {
			t.active++
		}
		m[p.Role] = t
	}
	return m
}

// constraints holds the numbers of each role against its minima and maxima, where they move away from them.
func (j *judge) constraints(users, usersBefore map[mimiuri.URI]int) error {
	now, was := count(j.list, users), count(j.s.Participants, usersBefore)
	// A minimum is for those who stay: it does not hold the last one, nor a room that is being destroyed.
	over := !j.destroys.IsZero() || !slices.ContainsFunc(j.list, func(p Participant) bool {
		return p.User.Kind == mimiuri.User && !j.roles.banned(p.Role)
	})
	for _, r := range j.roles {
		n, w := now[r.Index], was[r.Index]
		if over {
			r.MinParticipants, r.MinActive = 0, 0
		}
		switch {
		case n.all < w.all && n.all < int(r.MinParticipants):
			return deny("minimum_participants_constraint", "this room needs more users with the role %q", r.Name)
		case n.active < w.active && n.active < int(r.MinActive):
			return deny("minimum_active_participants_constraint", "this room needs more active users with the role %q", r.Name)
		case r.MaxParticipants != nil && n.all > w.all && n.all > int(*r.MaxParticipants):
			return deny("maximum_participants_constraint", "this room may not have more users with the role %q", r.Name)
		case r.MaxActive != nil && n.active > w.active && n.active > int(*r.MaxActive):
			return deny("maximum_active_participants_constraint", "this room may not have more active users with the role %q", r.Name)
		}
	}
	return nil
}

// dictionary: nothing in the room's state changes but by the AppDataUpdates that were judged.
func (j *judge) dictionary(after mls.AppDataDictionary) error {
	s, err := ParseState(after)
	if err != nil {
		return deny("app_data_dictionary", "the room's state would not be valid")
	}
	if !slices.Equal(s.Participants, j.list) {
		return deny("participant_list", "the participant list is not what the proposals make it")
	}
	for id, b := range j.s.dict.All() {
		if a, ok := after.Get(id); !j.touched[id] && (!ok || !bytes.Equal(a, b)) {
			return deny("app_data_dictionary", "%s was changed other than by AppDataUpdate", ComponentName(id))
		}
	}
	for id := range after.All() {
		if _, ok := j.s.dict.Get(id); !ok && !j.touched[id] {
			return deny("app_data_dictionary", "%s was added other than by AppDataUpdate", ComponentName(id))
		}
	}
	return nil
}
