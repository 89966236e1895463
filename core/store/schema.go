package store

// SchemaVersion is the version this code writes; OldestReader is the oldest version of this code that may
// read what it writes. Both stand in the meta table; Open refuses a database whose oldest reader is newer.
const (
	SchemaVersion = 3
	OldestReader  = 3
)

// upgrades[i] takes the schema from version i to i+1. A published step is never edited.
var upgrades = []string{
	// 1: the first schema.
	`
CREATE TABLE meta (
	key   TEXT NOT NULL PRIMARY KEY,
	value BLOB NOT NULL
) WITHOUT ROWID;

-- Nodes that share this database. until: ms; a node whose time is over has lost its rooms.
CREATE TABLE node (
	id    TEXT    NOT NULL PRIMARY KEY,
	until INTEGER NOT NULL
) WITHOUT ROWID;

-- Every room this provider is hub of or has users in. owner is the node that may act for it; taking it over
-- raises fence. incarnation is that of the database when the group was last brought up.
CREATE TABLE room (
	room_id     TEXT    NOT NULL PRIMARY KEY,
	owner       TEXT    NOT NULL,
	fence       INTEGER NOT NULL DEFAULT 1,
	incarnation BLOB    NOT NULL,
	created     INTEGER NOT NULL
) WITHOUT ROWID;

-- Rooms kept here. keys: sealed external-sender key, franking key and hub_key, made when the room is prepared.
CREATE TABLE hub_room (
	room_id  TEXT    NOT NULL PRIMARY KEY,
	status   INTEGER NOT NULL,           -- 0 prepared, 1 open, 2 closed
	epoch    INTEGER NOT NULL DEFAULT 0,
	state    BLOB,                       -- the public group
	info     BLOB,                       -- GroupInfo of the epoch, signed by its committer
	keys     BLOB    NOT NULL,
	creation BLOB,                       -- SHA-256 of what created it, for repetition
	last_seq INTEGER NOT NULL DEFAULT 0,
	last_ts  INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- What the hub accepted, in order. body is a FanoutMessage; it never changes. audience is the domains it goes to.
CREATE TABLE hub_log (
	room_id  TEXT    NOT NULL,
	seq      INTEGER NOT NULL,
	ts       INTEGER NOT NULL,
	audience TEXT    NOT NULL,           -- " a.example b.example ": blanks around each
	body     BLOB    NOT NULL,
	PRIMARY KEY (room_id, seq)
) WITHOUT ROWID;

-- How far each follower is. batch: upper end of the range under way, 0 if none.
CREATE TABLE hub_cursor (
	room_id TEXT    NOT NULL,
	peer    TEXT    NOT NULL,
	done    INTEGER NOT NULL,
	last    INTEGER NOT NULL,            -- the last entry for this peer
	batch   INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (room_id, peer)
) WITHOUT ROWID;

-- Answers that are given again to the same octets.
CREATE TABLE hub_answer (
	room_id  TEXT    NOT NULL,
	peer     TEXT    NOT NULL,
	hash     BLOB    NOT NULL,
	response BLOB    NOT NULL,
	ts       INTEGER NOT NULL,
	PRIMARY KEY (room_id, peer, hash)
) WITHOUT ROWID;
CREATE INDEX hub_answer_ts ON hub_answer (ts);

-- Where the Welcome for a KeyPackage claimed through this hub has to go.
CREATE TABLE hub_route (
	room_id TEXT    NOT NULL,
	ref     BLOB    NOT NULL,
	peer    TEXT    NOT NULL,
	expires INTEGER NOT NULL,
	PRIMARY KEY (room_id, ref)
) WITHOUT ROWID;

-- The MLS identity of a local user's client. secret: sealed signature key.
CREATE TABLE identity (
	user   TEXT    NOT NULL PRIMARY KEY,
	device TEXT    NOT NULL,
	suite  INTEGER NOT NULL,
	secret BLOB    NOT NULL
) WITHOUT ROWID;

-- KeyPackages handed out and not yet used. secret: sealed private keys.
CREATE TABLE key_package (
	ref     BLOB    NOT NULL PRIMARY KEY,
	user    TEXT    NOT NULL,
	room_id TEXT    NOT NULL,            -- the room it was asked for, or ''
	peer    TEXT    NOT NULL,            -- who asked
	package BLOB    NOT NULL,
	secret  BLOB    NOT NULL,
	expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX key_package_room ON key_package (room_id);
CREATE INDEX key_package_peer ON key_package (peer, user);

-- Rooms in which this provider has, had or is getting users. state: sealed epoch snapshot of the group.
CREATE TABLE client_room (
	room_id    TEXT    NOT NULL PRIMARY KEY,
	status     INTEGER NOT NULL,         -- 0 not joined yet, 1 joined, 2 out
	epoch      INTEGER NOT NULL DEFAULT 0,
	state      BLOB,
	view       BLOB,                     -- what Host.Room shows, JSON
	last_event INTEGER NOT NULL DEFAULT 0,
	last_inbox INTEGER NOT NULL DEFAULT 0,
	last_intent INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- Small per-message rows of the group's ratchets (sealed).
CREATE TABLE client_ratchet (
	room_id TEXT    NOT NULL,
	epoch   INTEGER NOT NULL,
	leaf    INTEGER NOT NULL,
	kind    INTEGER NOT NULL,
	data    BLOB    NOT NULL,
	PRIMARY KEY (room_id, epoch, leaf, kind)
) WITHOUT ROWID;

-- The one request that changes the group and is under way. next: sealed next epoch.
CREATE TABLE client_pending (
	room_id TEXT    NOT NULL PRIMARY KEY,
	kind    INTEGER NOT NULL,
	request BLOB    NOT NULL,
	next    BLOB,
	tag     BLOB,                        -- its confirmation tag
	hash    BLOB,                        -- SHA-256 of the handshake's MLSMessage
	intents TEXT    NOT NULL,            -- sequence numbers, JSON
	created INTEGER NOT NULL
) WITHOUT ROWID;

-- FanoutMessages that were acknowledged and are not processed yet. epoch: held until then, -1 if not held.
CREATE TABLE inbox (
	room_id TEXT    NOT NULL,
	seq     INTEGER NOT NULL,
	held    INTEGER NOT NULL DEFAULT -1,
	body    BLOB    NOT NULL,
	PRIMARY KEY (room_id, seq)
) WITHOUT ROWID;

-- Hashes of MLSMessages that were taken or sent, so that nothing is taken twice.
CREATE TABLE seen (
	room_id TEXT    NOT NULL,
	hash    BLOB    NOT NULL,
	epoch   INTEGER NOT NULL,
	PRIMARY KEY (room_id, hash)
) WITHOUT ROWID;

-- What local users want done. payload: sealed. status: 0 waiting, 1 in client_pending or sent, 2 done, 3 refused.
CREATE TABLE intent (
	room_id    TEXT    NOT NULL,
	seq        INTEGER NOT NULL,
	adapter    TEXT    NOT NULL,
	actor      TEXT    NOT NULL,
	origin     TEXT    NOT NULL,
	status     INTEGER NOT NULL,
	payload    BLOB,
	message_id BLOB,
	request    BLOB,                     -- a SubmitMessageRequest, fixed before it is sent first
	epoch      INTEGER NOT NULL DEFAULT 0,
	created    INTEGER NOT NULL,
	PRIMARY KEY (room_id, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX intent_origin ON intent (room_id, adapter, actor, origin);
CREATE INDEX intent_open ON intent (room_id, seq) WHERE status < 2;

-- What happened, for the adapters, in order. payload: sealed.
CREATE TABLE event (
	room_id TEXT    NOT NULL,
	seq     INTEGER NOT NULL,
	ts      INTEGER NOT NULL,
	payload BLOB    NOT NULL,
	PRIMARY KEY (room_id, seq)
) WITHOUT ROWID;

-- How far each adapter has shown a room's events.
CREATE TABLE delivery (
	room_id TEXT    NOT NULL,
	adapter TEXT    NOT NULL,
	done    INTEGER NOT NULL,
	PRIMARY KEY (room_id, adapter)
) WITHOUT ROWID;

-- Message IDs that were shown, by sender.
CREATE TABLE message (
	room_id    TEXT    NOT NULL,
	message_id BLOB    NOT NULL,
	sender     TEXT    NOT NULL,
	ts         INTEGER NOT NULL,
	event      INTEGER NOT NULL,
	PRIMARY KEY (room_id, message_id, sender)
) WITHOUT ROWID;
`,
	// 2: a whole provider: people, assets, limits.
	`
-- What only one of the nodes may do: a component's link, a loop.
CREATE TABLE lease (
	name  TEXT    NOT NULL PRIMARY KEY,
	node  TEXT    NOT NULL,
	fence INTEGER NOT NULL
) WITHOUT ROWID;

-- What a node asks of another, and the answer. status: 0 waits, 1 taken up, 2 answered. args, answer: sealed.
CREATE TABLE node_request (
	id      TEXT    NOT NULL PRIMARY KEY,
	node    TEXT    NOT NULL,            -- the one that is asked
	status  INTEGER NOT NULL,
	args    BLOB    NOT NULL,
	answer  BLOB,
	created INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX node_request_node ON node_request (node, status);

-- Counts of what a user or peer did within a time, for limits. began: start of the hour or day, ms.
CREATE TABLE usage (
	who   TEXT    NOT NULL,
	what  TEXT    NOT NULL,
	began INTEGER NOT NULL,
	n     INTEGER NOT NULL,
	PRIMARY KEY (who, what, began)
) WITHOUT ROWID;

-- How a local user and another stand to each other, for one room or, with '', for all: numbers of adapter.ConsentState.
-- The row '', '', '' stands for nobody: what is written for users there are not goes there.
CREATE TABLE consent (
	local_user   TEXT    NOT NULL,
	other        TEXT    NOT NULL,
	room_id      TEXT    NOT NULL,
	grants       INTEGER NOT NULL,       -- what the local user lets the other do
	granted      INTEGER NOT NULL,       -- what the other lets the local user do
	since        INTEGER NOT NULL,
	asked_until  INTEGER NOT NULL,       -- when the other's open question ends, 0 if there is none
	asking_until INTEGER NOT NULL,       -- the same of the local user's
	PRIMARY KEY (local_user, other, room_id)
) WITHOUT ROWID;
CREATE INDEX consent_asked ON consent (asked_until) WHERE asked_until > 0;
CREATE INDEX consent_asking ON consent (asking_until) WHERE asking_until > 0;

-- What other providers have still to be told about consent; of each kind (0 requestConsent, 1 updateConsent) only the last.
CREATE TABLE consent_out (
	peer       TEXT    NOT NULL,
	local_user TEXT    NOT NULL,
	other      TEXT    NOT NULL,
	room_id    TEXT    NOT NULL,
	kind       INTEGER NOT NULL,
	op         INTEGER NOT NULL,
	version    INTEGER NOT NULL,
	created    INTEGER NOT NULL,
	due        INTEGER NOT NULL,
	tries      INTEGER NOT NULL,
	PRIMARY KEY (peer, local_user, other, room_id, kind)
) WITHOUT ROWID;
CREATE INDEX consent_out_due ON consent_out (due);

-- Changes of contacts that an adapter has still to show. flags: 1 asked, 2 answered.
CREATE TABLE consent_event (
	adapter    TEXT    NOT NULL,
	local_user TEXT    NOT NULL,
	other      TEXT    NOT NULL,
	room_id    TEXT    NOT NULL,
	flags      INTEGER NOT NULL,
	version    INTEGER NOT NULL,
	created    INTEGER NOT NULL,
	PRIMARY KEY (adapter, local_user, other, room_id)
) WITHOUT ROWID;

-- Invitations that wait until the other consents. seq: the intent's.
CREATE TABLE consent_wait (
	local_user TEXT    NOT NULL,
	other      TEXT    NOT NULL,
	room_id    TEXT    NOT NULL,
	seq        INTEGER NOT NULL,
	PRIMARY KEY (local_user, other, room_id, seq)
) WITHOUT ROWID;

-- What a local user has set: consent policy ('' is the provider's) and what others may know of them.
CREATE TABLE person (
	local_user TEXT NOT NULL PRIMARY KEY,
	policy     TEXT NOT NULL,
	name       TEXT NOT NULL,
	avatar     TEXT NOT NULL
) WITHOUT ROWID;

-- The fields by which a local user may be found. folded: value as it is compared.
CREATE TABLE person_field (
	local_user TEXT NOT NULL,
	field      TEXT NOT NULL,
	value      TEXT NOT NULL,
	folded     TEXT NOT NULL,
	PRIMARY KEY (local_user, field)
) WITHOUT ROWID;
CREATE INDEX person_field_folded ON person_field (field, folded);

-- What other providers said of their users, for a time. found: 0 if they said nothing.
CREATE TABLE profile (
	user_uri TEXT    NOT NULL PRIMARY KEY,
	found    INTEGER NOT NULL,
	name     TEXT    NOT NULL,
	avatar   TEXT    NOT NULL,
	expires  INTEGER NOT NULL
) WITHOUT ROWID;

-- What a local user (owner), or with '' the admin for everybody, does not want to hear of: users, rooms, domains.
CREATE TABLE block (
	owner   TEXT    NOT NULL,
	target  TEXT    NOT NULL,
	created INTEGER NOT NULL,
	PRIMARY KEY (owner, target)
) WITHOUT ROWID;

-- Peers that the admin has allowed (1) or denied (0).
CREATE TABLE peer_rule (
	domain  TEXT    NOT NULL PRIMARY KEY,
	allow   INTEGER NOT NULL,
	created INTEGER NOT NULL
) WITHOUT ROWID;

-- Which local users are in which rooms.
CREATE TABLE member (
	local_user TEXT NOT NULL,
	room_id    TEXT NOT NULL,
	PRIMARY KEY (local_user, room_id)
) WITHOUT ROWID;
CREATE INDEX member_room ON member (room_id);

-- Direct rooms by the two users, sorted, with a blank between. There may be several for one pair.
CREATE TABLE direct_room (
	users   TEXT NOT NULL,
	room_id TEXT NOT NULL,
	PRIMARY KEY (users, room_id)
) WITHOUT ROWID;
CREATE INDEX direct_room_room ON direct_room (room_id);

-- Files kept for users here. The octets lie in a file of that name. type: '' for an attachment; expires: ms, 0 for never.
CREATE TABLE asset (
	name    TEXT    NOT NULL PRIMARY KEY,
	user    TEXT    NOT NULL,
	size    INTEGER NOT NULL,
	type    TEXT    NOT NULL,
	created INTEGER NOT NULL,
	expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX asset_user ON asset (user);
CREATE INDEX asset_expires ON asset (expires);

-- When a joined room has to be looked at next though nothing happens in it. due: ms, 0 at each start. refresh: when the keys
-- of a local client are to be changed, 0 if that has to be set yet. leaf: the client whose were changed last.
CREATE TABLE room_due (
	room_id TEXT    NOT NULL PRIMARY KEY,
	due     INTEGER NOT NULL,
	refresh INTEGER NOT NULL,
	leaf    INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX room_due_due ON room_due (due);
INSERT INTO room_due (room_id, due, refresh, leaf) SELECT room_id, 0, 0, 0 FROM client_room WHERE status = 1;
-- Reports of abuse in rooms kept here, for the admin. body: sealed AbuseReport.
CREATE TABLE abuse_report (
	hash     BLOB    NOT NULL PRIMARY KEY,
	room_id  TEXT    NOT NULL,
	ts       INTEGER NOT NULL,
	peer     TEXT    NOT NULL,
	reporter TEXT    NOT NULL,
	abuser   TEXT    NOT NULL,
	body     BLOB    NOT NULL
) WITHOUT ROWID;
CREATE INDEX abuse_report_ts ON abuse_report (ts);

-- Local users whose removal is under way, and the rooms they were in; done: no group has a client of theirs any more.
CREATE TABLE deletion (
	local_user TEXT    NOT NULL PRIMARY KEY,
	started    INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE deletion_room (
	local_user TEXT    NOT NULL,
	room_id    TEXT    NOT NULL,
	done       INTEGER NOT NULL,
	PRIMARY KEY (local_user, room_id)
) WITHOUT ROWID;
`,
	// 3: what grows with a room lies apart from what changes with each message.
	`
-- The last numbers of a room's events, inbox and intents.
CREATE TABLE client_count (
	room_id     TEXT    NOT NULL PRIMARY KEY,
	last_event  INTEGER NOT NULL DEFAULT 0,
	last_inbox  INTEGER NOT NULL DEFAULT 0,
	last_intent INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
INSERT INTO client_count (room_id, last_event, last_inbox, last_intent) SELECT room_id, last_event, last_inbox, last_intent FROM client_room;

-- The end of the log of a room kept here. last_ts: ms.
CREATE TABLE hub_end (
	room_id  TEXT    NOT NULL PRIMARY KEY,
	last_seq INTEGER NOT NULL DEFAULT 0,
	last_ts  INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
INSERT INTO hub_end (room_id, last_seq, last_ts) SELECT room_id, last_seq, last_ts FROM hub_room;

-- Rows that may be long lie by themselves, not in the tree that is searched by their key: SQLite would read them whole to compare
-- the key of each that it passes.
ALTER TABLE client_room RENAME TO client_room_2;
CREATE TABLE client_room (
	room_id    TEXT    NOT NULL PRIMARY KEY,
	status     INTEGER NOT NULL,         -- 0 not joined yet, 1 joined, 2 out
	epoch      INTEGER NOT NULL DEFAULT 0,
	state      BLOB,
	view       BLOB                      -- what Host.Room shows, JSON
);
INSERT INTO client_room (room_id, status, epoch, state, view) SELECT room_id, status, epoch, state, view FROM client_room_2;
DROP TABLE client_room_2;

ALTER TABLE hub_room RENAME TO hub_room_2;
CREATE TABLE hub_room (
	room_id  TEXT    NOT NULL PRIMARY KEY,
	status   INTEGER NOT NULL,           -- 0 prepared, 1 open, 2 closed
	epoch    INTEGER NOT NULL DEFAULT 0,
	state    BLOB,                       -- the public group
	info     BLOB,                       -- GroupInfo of the epoch, signed by its committer
	keys     BLOB    NOT NULL,
	creation BLOB                        -- SHA-256 of what created it, for repetition
);
INSERT INTO hub_room (room_id, status, epoch, state, info, keys, creation) SELECT room_id, status, epoch, state, info, keys, creation FROM hub_room_2;
DROP TABLE hub_room_2;

ALTER TABLE hub_log RENAME TO hub_log_2;
CREATE TABLE hub_log (
	room_id  TEXT    NOT NULL,
	seq      INTEGER NOT NULL,
	ts       INTEGER NOT NULL,
	audience TEXT    NOT NULL,           -- " a.example b.example ": blanks around each
	body     BLOB    NOT NULL,
	PRIMARY KEY (room_id, seq)
);
INSERT INTO hub_log (room_id, seq, ts, audience, body) SELECT room_id, seq, ts, audience, body FROM hub_log_2;
DROP TABLE hub_log_2;

ALTER TABLE inbox RENAME TO inbox_2;
CREATE TABLE inbox (
	room_id TEXT    NOT NULL,
	seq     INTEGER NOT NULL,
	held    INTEGER NOT NULL DEFAULT -1,
	body    BLOB    NOT NULL,
	PRIMARY KEY (room_id, seq)
);
INSERT INTO inbox (room_id, seq, held, body) SELECT room_id, seq, held, body FROM inbox_2;
DROP TABLE inbox_2;

ALTER TABLE intent RENAME TO intent_2;
CREATE TABLE intent (
	room_id    TEXT    NOT NULL,
	seq        INTEGER NOT NULL,
	adapter    TEXT    NOT NULL,
	actor      TEXT    NOT NULL,
	origin     TEXT    NOT NULL,
	status     INTEGER NOT NULL,
	payload    BLOB,
	message_id BLOB,
	request    BLOB,                     -- a SubmitMessageRequest, fixed before it is sent first
	epoch      INTEGER NOT NULL DEFAULT 0,
	created    INTEGER NOT NULL,
	PRIMARY KEY (room_id, seq)
);
INSERT INTO intent (room_id, seq, adapter, actor, origin, status, payload, message_id, request, epoch, created) SELECT room_id, seq, adapter, actor, origin, status, payload, message_id, request, epoch, created FROM intent_2;
DROP TABLE intent_2;
CREATE UNIQUE INDEX intent_origin ON intent (room_id, adapter, actor, origin);
CREATE INDEX intent_open ON intent (room_id, seq) WHERE status < 2;

ALTER TABLE event RENAME TO event_2;
CREATE TABLE event (
	room_id TEXT    NOT NULL,
	seq     INTEGER NOT NULL,
	ts      INTEGER NOT NULL,
	payload BLOB    NOT NULL,
	PRIMARY KEY (room_id, seq)
);
INSERT INTO event (room_id, seq, ts, payload) SELECT room_id, seq, ts, payload FROM event_2;
DROP TABLE event_2;
`,
}
