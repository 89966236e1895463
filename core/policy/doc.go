// Package policy is who may do what in a room: the participant list and the room metadata of
// draft-ietf-mimi-protocol, and the roles, capabilities and policy components of
// draft-ietf-mimi-room-policy. It reads and writes the components of the group's app_data_dictionary,
// builds those of a new room, and judges commits, proposals and messages.
//
// Two sides use it. A hub judges with [State.CheckCommit], [State.CheckProposals], [State.CheckSend],
// [State.CheckGroupInfo] and [State.CheckKeyMaterial]; a refusal is a [*Denied]. A client only applies what the
// components themselves demand, with [ApplyAppData]: the hub is the arbiter of policy, and a client that enforced
// it a second time would fork the room as soon as the two disagree.
//
// # How a commit is judged
//
// Each proposal is held against the capabilities and authorized_role_changes of its own proposer, as the
// participant list and the roles stood before the commit; whoever commits answers only for what they propose in
// the commit itself. What the room is afterwards is held against the rules that no proposer can waive: every
// leaf belongs to a listed user whose role may have clients, the minimum and maximum numbers, the base policy.
//
// # Where the drafts leave a choice
//
//   - The indices of all participant list updates of one commit refer to the list before the commit; all role
//     changes come first, then the removals, then the additions, each in the order of the updates.
//   - A minimum or maximum refuses only what moves away from it: a room that begins with no group_admin does
//     not refuse everything because that role has a minimum of 1.
//   - A client of a listed user may be added by whoever could add that user with that role; in a
//     fixed-membership room, where nobody can, by every participant with canAddOwnClient.
//   - Components without a capability of their own may be changed with canChangeOtherPolicyAttribute, which is
//     reserved, or canChangeRoomMembershipStyle, which marks the highest role of every example.
//   - An entry of the preauthorized users with claims matches nobody: no credential type has claims that are
//     verified here. An entry without claims matches everybody.
//   - The hub is listed as mimi://domain, and what it proposes as external sender is held against that entry's role;
//     besides, it may always take clients out of the group and, where membership is not fixed, users off the list.
package policy
