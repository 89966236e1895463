// Package store keeps everything that must outlive a crash: SQL underneath, bytes and ids on the surface.
// It knows no MLS, no protocol and no network; hub and client say what the bytes are.
//
// SQL is written once, for SQLite and PostgreSQL: types TEXT, INTEGER (64 bits, also for times and truth values) and BLOB
// (from []byte only), parameters ?, upserts by ON CONFLICT, RETURNING; a counter in DO UPDATE is named with its table (usage.n+1).
// Not: INSERT OR …, AUTOINCREMENT, rowid, json_…, max(a, b), LIMIT -1, IS ?, double-quoted strings, or columns with a name PostgreSQL reserves.
// Text that is not UTF-8 or has a NUL in it is stored on PostgreSQL with U+FFFD in its place.
//
// SQLite is the default; one setting puts PostgreSQL in its place (dialect.go, postgres.go).
//
// All writing goes through Store.Update. One goroutine owns the only writing connection; it takes the
// closures that are waiting, runs each in a SAVEPOINT of its own inside one transaction, and answers all of them
// after one COMMIT with synchronous=FULL: what Update returned nil for survives a crash and a power cut,
// and many rooms share one fsync. Reading goes through Store.View on other connections (WAL), at the same time.
//
// Secrets and message content are sealed (Sealer): the row names the key, and table, row key and column
// are bound to the ciphertext, so that a sealed value moved elsewhere does not open.
//
// What is overwritten or deleted is overwritten in the file (secure_delete), and the write-ahead log is emptied into it
// every minute (Options.Checkpoint) and on Close: a key that was used does not stay. That holds for the SQLite file and
// its log. Nothing is claimed of the disk below them, of backups, or of PostgreSQL.
//
// The schema has from its first version what more than one node, rollback and sealing ask for:
// node(id, until), room(owner, fence), an incarnation, and room_id leading every room key.
package store
