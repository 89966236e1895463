// Package config reads the configuration file of a provider: one YAML document, typed, defaulted and
// validated. An error names the file, the line and what would cure it; a misspelt key is an error that
// names the nearest key there is. Nothing is interpolated: a secret stands in the file, or a key that
// ends in _file names a file with it, or a key that ends in _env an environment variable.
//
// Paths in the file are relative to the folder the file is in.
package config

// Config is a whole configuration. Load and Parse return it complete: defaults filled in, paths made
// relative to the working directory of the process, secrets read.
type Config struct {
	// Domain is the MIMI provider domain, the host in mimi://example.org/u/alice. Required. Other
	// providers find this one at https://DOMAIN/.well-known/mimi-protocol-directory.
	Domain string `yaml:"domain"`

	// Network is the chat network this provider serves: at most one of them. "network: {}" is a provider without
	// one: a hub for others, whose own users have only the console.
	Network Network `yaml:"network"`

	Federation Federation `yaml:"federation"`
	Storage    Storage    `yaml:"storage"`
	Assets     Assets     `yaml:"assets"`
	Retention  Retention  `yaml:"retention"`
	People     People     `yaml:"people"`
	Limits     Limits     `yaml:"limits"`
	Secrets    Secrets    `yaml:"secrets"`
	Admin      Management `yaml:"admin"`

	// Permissions says who may use the provider: none, user or admin, by network id
	// (alice@example.org, @alice:example.org), by the domain of one, or "*". The most specific
	// rule holds. Without this key the network's own domain is user and everybody else none; with
	// it, it is the whole list.
	Permissions Permissions `yaml:"permissions"`

	Log Log `yaml:"log"`

	// Warnings are for the log at the start: nothing that prevents it. Not a key of the file.
	Warnings []string `yaml:"-"`
	// File is the path the configuration was read from. Not a key of the file.
	File string `yaml:"-"`

	where map[string]int // the line of each key that the file has, by dotted path
	given map[string]bool
}

// Network is one chat network; at most one field is set.
type Network struct {
	XMPP   *XMPP   `yaml:"xmpp"`
	Matrix *Matrix `yaml:"matrix"`
}

// XMPP connects an XMPP server by the component protocol (XEP-0114): one connection for each of the two
// component domains.
type XMPP struct {
	// Server is the "host:port" of the server's component listener. Default "127.0.0.1:5347".
	Server string `yaml:"server"`
	// LocalDomain is the domain of the server's own users. Default: Config.Domain.
	LocalDomain string `yaml:"local_domain"`
	// Users is the component domain of the gateway and of the remote users. Default "mimi." before
	// LocalDomain.
	Users string `yaml:"users"`
	// Rooms is the component domain under which MIMI rooms are MUCs. Default "rooms." before Users.
	Rooms string `yaml:"rooms"`
	// Secret is the component secret of both domains, given in one of three ways. Required.
	Secret     string `yaml:"secret" secret:"yes"`
	SecretFile string `yaml:"secret_file"`
	SecretEnv  string `yaml:"secret_env"`
	// Puppets is who speaks for people elsewhere in a chat room of the server that is connected with a MIMI room: "speakers", they
	// themselves while they speak, or "none", the bridge. Default "speakers".
	Puppets string `yaml:"puppets" enum:"speakers none"`
	// OtherBridges are patterns of the addresses ("*@irc.example.org") or, without an "@", the nicks of users of other bridges. A chat room
	// with one of them is not connected with a MIMI room, and is not served while one is in it. Default: none.
	OtherBridges []string `yaml:"other_bridges"`
	// Blocklists are lists of banned addresses that are followed in real time (RTBL), as "pubsub.example.org" for the node
	// muc_bans_sha256 there, or "pubsub.example.org/node". Default: none.
	Blocklists []string `yaml:"blocklists"`
}

// Matrix connects a Matrix homeserver as an application service.
type Matrix struct {
	// Homeserver is the URL of the client-server API, without a path. Default "http://127.0.0.1:8008".
	Homeserver string `yaml:"homeserver"`
	// ServerName is the homeserver's name, the part of @alice:example.org after the colon. Default:
	// Config.Domain.
	ServerName string `yaml:"server_name"`
	// Listen is the "host:port" on which the homeserver reaches the application service. Default
	// "127.0.0.1:29333".
	Listen string `yaml:"listen"`
	// Registration is the registration file that the homeserver has been given too; it holds both
	// tokens. `mimibridge registration` writes it. Default "registration.yaml".
	Registration string `yaml:"registration"`
	// RegistrationEnv names an environment variable with the text of such a file instead.
	RegistrationEnv string `yaml:"registration_env"`
	// RegistrationText is that text, or empty. Not a key of the file.
	RegistrationText string `yaml:"-"`
	// Encryption of Matrix rooms: "off"; "allowed", so that rooms which people have encrypted can be
	// bridged; or "default", so that the bridge makes encrypted ones. Default "allowed" in a program
	// built with the tag goolm (make build), else "off".
	Encryption string `yaml:"encryption"`
	// DeleteKeys says which keys of encrypted rooms are deleted when, with the names of mautrix's bridges.
	// Default: none, so that a message can be read whenever the homeserver sends it again.
	DeleteKeys MatrixDeleteKeys `yaml:"delete_keys"`
	// VerificationLevels are the lowest trust in people's devices.
	VerificationLevels MatrixVerification `yaml:"verification_levels"`
	// AllowKeySharing gives admins' devices keys that they have missed. Default false.
	AllowKeySharing bool `yaml:"allow_key_sharing"`
	// Rotation is how often the keys of rooms change that the bridge encrypts.
	Rotation MatrixRotation `yaml:"rotation"`
	// WarnDevices is how many devices ghosts may have in an encrypted room before the admin is told, by the
	// log and by the bot: each costs people's apps. Default 200.
	WarnDevices int `yaml:"warn_devices"`
	// InitialGhosts is how many remote participants join when a room is made here; the others join
	// when they first speak or are mentioned. Default 100.
	InitialGhosts int `yaml:"initial_ghosts"`
	// Federate lets users of other homeservers into rooms that the bridge makes, if the permissions
	// allow them. Default false.
	Federate bool `yaml:"federate"`
	// Notices passes on what bots say, other bridges among them (m.notice). Default false.
	Notices bool `yaml:"notices"`
	// NoStatusEvents leaves out the events that tell a client what became of a message. Default false.
	NoStatusEvents bool `yaml:"no_status_events"`
}

// MatrixDeleteKeys says when keys of encrypted rooms are deleted.
type MatrixDeleteKeys struct {
	// RatchetOnDecrypt forgets the key of a message once it is read. Default false.
	RatchetOnDecrypt bool `yaml:"ratchet_on_decrypt"`
	// DeleteFullyUsedOnDecrypt deletes a session when all its messages are read. Default false.
	DeleteFullyUsedOnDecrypt bool `yaml:"delete_fully_used_on_decrypt"`
	// DeletePrevOnNewSession deletes the sessions of a device when it begins another one. Default false.
	DeletePrevOnNewSession bool `yaml:"delete_prev_on_new_session"`
	// DeleteOnDeviceDelete deletes the sessions of a device that is deleted. Default false.
	DeleteOnDeviceDelete bool `yaml:"delete_on_device_delete"`
	// PeriodicallyDeleteExpired deletes sessions older than the room's rotation period, daily. Default false.
	PeriodicallyDeleteExpired bool `yaml:"periodically_delete_expired"`
	// DeleteOutdatedInbound deletes, at the start, sessions that do not say when they expire. Default false.
	DeleteOutdatedInbound bool `yaml:"delete_outdated_inbound"`
}

// MatrixVerification holds levels of trust in devices: "unverified", "unknown-device", "cross-signed-untrusted",
// "cross-signed-tofu", "cross-signed-verified" or "verified".
type MatrixVerification struct {
	// Receive is for taking a device's messages. Default "unverified".
	Receive string `yaml:"receive"`
	// Send is for letting a device read. Default "unverified".
	Send string `yaml:"send"`
	// Share is for giving it keys that it has missed. Default "cross-signed-tofu".
	Share string `yaml:"share"`
}

// MatrixRotation is how often keys change.
type MatrixRotation struct {
	// EnableCustom writes the next two into the rooms that the bridge encrypts. Default false.
	EnableCustom bool `yaml:"enable_custom"`
	// Milliseconds that a key is used. Default 604800000, a week.
	Milliseconds int64 `yaml:"milliseconds"`
	// Messages that a key is used for. Default 100.
	Messages int `yaml:"messages"`
	// DisableDeviceChangeKeyRotation keeps a key when somebody's devices change. Default false.
	DisableDeviceChangeKeyRotation bool `yaml:"disable_device_change_key_rotation"`
}

// Federation is the way to other providers: HTTPS with mutual TLS (draft-ietf-mimi-protocol).
type Federation struct {
	// Listen is the "host:port" of the HTTPS listener. Default ":8443".
	Listen string `yaml:"listen"`
	// URL is where others reach the listener; the directory tells them. Default https://DOMAIN: with
	// the port of Listen.
	URL string `yaml:"url"`
	// CertFile and KeyFile are PEM files. The certificate names Config.Domain, as other providers
	// recognise this one by it, and the host of URL. They are read again when they change.
	// Required.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// CAFile is a PEM file with the authorities that other providers' certificates are checked
	// against. Default: those of the system.
	CAFile string `yaml:"ca_file"`
	// Peers says for a provider domain at which "host:port" its directory answers, for private set-ups
	// without DNS. Default: the domain itself, port 443.
	Peers map[string]string `yaml:"peers"`
	// Allow lists the providers that may take part, "example.org" or "*.example.org"; others are neither served nor
	// asked. Default: all. `mimibridge peer` changes it while the daemon runs.
	Allow []string `yaml:"allow"`
	// Deny lists providers that may not, in the same way; it goes before Allow. Default: none.
	Deny []string `yaml:"deny"`
	// Record is for debugging, and kept out of every example: a file that takes all federation bodies
	// in both directions as they are before TLS encrypts them. They are MLS messages; who talks with
	// whom is readable. Default: none.
	Record string `yaml:"record"`
}

// Storage is where the provider keeps its state.
type Storage struct {
	// SQLite is the database file; the adapter's own database lies beside it. Default, if PostgreSQL is not
	// given: "mimibridge.db".
	SQLite string `yaml:"sqlite"`
	// Postgres is a PostgreSQL database (13 or newer) instead, "postgres://user:password@host/database", given in
	// one of three ways; a database of its own that the user owns. The adapter has a schema of its own in it.
	Postgres     string `yaml:"postgres" secret:"yes"`
	PostgresFile string `yaml:"postgres_file"`
	PostgresEnv  string `yaml:"postgres_env"`
}

// Assets are the files of users: attachments, encrypted, and pictures of users and rooms. They are served to whoever knows
// their names, which are random.
type Assets struct {
	// Folder is where they lie. Default: the database's name with "-assets" instead of its extension.
	Folder string `yaml:"folder"`
	// MaxFile is the most that one file may have, to and from here. Default "100 MB".
	MaxFile Octets `yaml:"max_file"`
	// Quota is the most that all files of one user may have. Default "1 GB".
	Quota Octets `yaml:"quota"`
	// Cache is the space for copies of files that lie elsewhere. Default "1 GB".
	Cache Octets `yaml:"cache"`
}

// Retention is for how long things are kept. What is over is deleted within the hour.
type Retention struct {
	// Messages as they were shown to the network, sealed, and what proves them in a report of abuse. Default "30 days".
	Messages Duration `yaml:"messages"`
	// Attachments that local users have sent: recipients may fetch them for that long. Default "30 days".
	Attachments Duration `yaml:"attachments"`
	// IDs tell that a message or a request comes a second time. Default "90 days".
	IDs Duration `yaml:"ids"`
	// Logs are what rooms kept here have passed on, encrypted, and everybody has. Default "7 days".
	Logs Duration `yaml:"logs"`
	// Queues are what another provider or the network has not taken; then it is given up. Default "30 days".
	Queues Duration `yaml:"queues"`
	// Answers are given again to the same request. Default "7 days".
	Answers Duration `yaml:"answers"`
	// Reports of abuse, with the messages they are about, sealed. Default "90 days".
	Reports Duration `yaml:"reports"`
}

// People is who may add the provider's users to rooms, where they have not decided themselves.
type People struct {
	// Consent is ask, contacts (those whom a user has asked or agreed to), everyone or nobody. Default "ask".
	Consent string `yaml:"consent" enum:"ask contacts everyone nobody"`
	// Ask is how strangers ask under "ask": invitation (they add the user, whom the network shows an invitation to
	// accept or reject) or question (before they can add anybody). Default: as the network can show it.
	Ask string `yaml:"ask" enum:"auto invitation question"`
}

// Limits bound what one may do, users of this provider and of others alike. -1 is no limit.
type Limits struct {
	// ConsentRequests is how many people a user may ask for their consent in an hour. Default 10.
	ConsentRequests int `yaml:"consent_requests_per_hour"`
	// Invites is how many people a user may invite in an hour. Default 30.
	Invites int `yaml:"invites_per_hour"`
	// Lookups is how many people a user may look up in an hour. Default 20.
	Lookups int `yaml:"lookups_per_hour"`
	// RoomsADay is how many rooms a user may open in a day. Default 5.
	RoomsADay int `yaml:"rooms_per_day"`
	// Rooms is in how many rooms a user may be. Default 200.
	Rooms int `yaml:"rooms"`
	// Pending is how many questions of strangers may wait for a user's answer. Default 50.
	Pending int `yaml:"pending_requests"`
	// PeerFactor is how many times as much all users of another provider may do together. Default 50.
	PeerFactor int `yaml:"peer_factor"`
	// PeerRate is how many requests another provider may make in a second, on average over ten. Default 1000.
	PeerRate int `yaml:"peer_requests_per_second"`
	// Message is the most that a message may have, to and from here, at most 768 kB. Attachments have limits of their
	// own (assets). Default "768 kB".
	Message Octets `yaml:"message"`
}

// Secrets is what the provider itself keeps secret.
type Secrets struct {
	// KeyFile holds the sealing key: MLS secrets and message content are encrypted with it in the
	// database. Back it up apart from the database. `mimibridge init` makes it. Default "sealing.key".
	KeyFile string `yaml:"key_file"`
	// KeyEnv is an environment variable with the same content instead.
	KeyEnv string `yaml:"key_env"`

	// SealingKey is the key read: 32 octets. Not a key of the file.
	SealingKey []byte `yaml:"-"`
	// NextKey is the key of KeyFile with ".new" at its end, if there is such a file: `mimibridge keys rotate` has been
	// interrupted. Not a key of the file.
	NextKey []byte `yaml:"-"`
}

// Management is how the daemon is looked after: by commands over a Unix socket, by monitoring over HTTP.
type Management struct {
	// Socket is the Unix socket that `mimibridge status`, `chat` and the other commands talk through; mode 0600: who may
	// open it may do everything. Default "mimibridge.sock" beside the database.
	Socket string `yaml:"socket"`
	// Listen is a "host:port" for monitoring and the delete-account hook: /metrics, /healthz, /readyz,
	// /_matrix/mau/live, /_matrix/mau/ready, /hooks/delete-account. Plain HTTP, for this machine or a private
	// network. Default: none.
	Listen string `yaml:"listen"`
	// Token is asked for, as "Authorization: Bearer TOKEN", for /metrics and the hook. Given in one of three ways.
	// Default: none; then /metrics is open to whoever reaches the listener, and there is no hook.
	Token     string `yaml:"token" secret:"yes"`
	TokenFile string `yaml:"token_file"`
	TokenEnv  string `yaml:"token_env"`
	// Console is whether `mimibridge chat` may be used. Default true.
	Console *bool `yaml:"console"`
}

// Log is what is logged, and how, on standard error.
type Log struct {
	// Level is trace, debug, info, warn or error. Default "info".
	Level string `yaml:"level" enum:"trace debug info warn error"`
	// Format is json, console, or auto: console on a terminal. Default "auto".
	Format string `yaml:"format" enum:"auto json console"`
}

// LocalDomain is the domain of the network's own users; without a network, Domain.
func (c *Config) LocalDomain() string {
	switch {
	case c.Network.XMPP != nil:
		return c.Network.XMPP.LocalDomain
	case c.Network.Matrix != nil:
		return c.Network.Matrix.ServerName
	}
	return c.Domain
}
