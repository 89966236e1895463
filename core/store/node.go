package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mimibridge/mimibridge/core/fault"
)

// More than one node may share a PostgreSQL database. A node is one open Store; it has a row with a time until which it
// lives, and moves that on (Beat). A room belongs to one node, whose id stands in its row; a node whose time is over has
// lost its rooms to whoever takes them (Own, Adopt), which raises the room's fence.
//
// Every transaction that changes a room's rows first locks the room's row and finds itself the owner there, with the
// fence it knows: this is done here, before the first such statement, whoever wrote it. Only what any node may add to a room, the
// statements named in inboxStatement, needs no ownership: the owner works it off.
//
// With SQLite there is one node, and all of this is void.

// ErrNotOwner is returned for a change of a room that another node keeps.
var ErrNotOwner = fault.New(fault.Unavailable, "another node keeps this room; please try again")

// ErrNodeGone is returned by Ask if the node asked has ended before it answered.
var ErrNodeGone = errors.New("store: the node that was asked is gone")

// ErrLapsed is returned by Beat: the node has not said for too long that it lives, and must not go on.
var ErrLapsed = errors.New("store: the database could not be reached for so long that other nodes take this one for gone")

// errElsewhere: an addition to another node's room, which must not wait in a transaction with others.
var errElsewhere = errors.New("store: to be written in a transaction of its own")

// NodeLease is how long a node lives after it last said so.
const NodeLease = 15 * time.Second

// dbNow is the time by the database's clock, ms: the nodes' own may differ.
const dbNow = `(extract(epoch FROM clock_timestamp())*1000)::BIGINT`

const channel = "mimibridge"

// nodeState is what a node knows of its place among others.
type nodeState struct {
	mu     sync.Mutex
	fences map[string]int64 // rooms this node owns
	held   map[string]bool  // leases
	beat   time.Time        // when the last successful Beat began
	waits  map[string]chan struct{}
}

func newNodeState() nodeState {
	return nodeState{fences: map[string]int64{}, held: map[string]bool{}, waits: map[string]chan struct{}{}, beat: time.Now()}
}

// NodeName is the node's name, which stays the same when it is started again; its id if it has no name.
func (s *Store) NodeName() string {
	if s.postgres() && s.o.Node != "" {
		return s.o.Node
	}
	return s.nodeID
}

// Shared reports whether other nodes may use the database, too.
func (s *Store) Shared() bool { return s.postgres() }

// Lease is how long this node lives after it last said so.
func (s *Store) Lease() time.Duration {
	if s.o.Lease > 0 {
		return s.o.Lease
	}
	return NodeLease
}

// join makes the node's row.
func (s *Store) join(ctx context.Context, tx *sql.Tx) error {
	s.node.beat = time.Now()
	if s.o.Node != "" {
		if _, err := tx.ExecContext(ctx, `DELETE FROM node WHERE substr(id, 1, ?)=?`, len([]rune(s.o.Node))+1, s.o.Node+"~"); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO node (id, until) VALUES (?, `+dbNow+`+?)`, s.nodeID, s.Lease().Milliseconds())
	return err
}

// nobodyElse refuses what must not be done while other nodes live.
func (s *Store) nobodyElse(ctx context.Context, tx *sql.Tx) error {
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM node WHERE until>`+dbNow).Scan(&n); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if n > 0 {
		return fmt.Errorf("store: another mimibridge uses this database, or did so less than %s ago; stop it first", s.Lease())
	}
	return nil
}

// part gives all this node has to others.
func (s *Store) part(ctx context.Context) {
	s.conn.ExecContext(ctx, `DELETE FROM node WHERE id=?`, s.nodeID)
	s.signal(ctx, "poll")
}

// Beat says that this node lives. It has to be called several times in a lease. ErrLapsed is final: others may have taken what
// this node had. Any other error is worth another try.
func (s *Store) Beat(ctx context.Context) error {
	s.node.mu.Lock()
	left := s.Lease()*4/5 - time.Since(s.node.beat)
	s.node.mu.Unlock()
	if left <= 0 {
		return ErrLapsed
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	r, err := s.life.ExecContext(ctx, `UPDATE node SET until=`+dbNow+`+? WHERE id=? AND until>`+dbNow, s.Lease().Milliseconds(), s.nodeID)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if n, _ := r.RowsAffected(); n == 0 {
		return ErrLapsed
	}
	s.node.mu.Lock()
	s.node.beat = began
	s.node.mu.Unlock()
	return nil
}

// Mine reports whether this node is known to own the room.
func (s *Store) Mine(room string) bool {
	if !s.postgres() {
		return true
	}
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	_, ok := s.node.fences[room]
	return ok
}

func (s *Store) setFence(room string, fence int64) {
	s.node.mu.Lock()
	s.node.fences[room] = fence
	s.node.mu.Unlock()
}

func (s *Store) lost(room string) {
	s.node.mu.Lock()
	delete(s.node.fences, room)
	s.node.mu.Unlock()
}

// Own says which node owns a room; a room whose owner is gone becomes this node's. owner is "" for a room that there is not.
// taken says that the room is this node's since now: what is in memory of it may be old.
func (s *Store) Own(ctx context.Context, room string) (owner string, taken bool, err error) {
	if s.Mine(room) {
		return s.nodeID, false, nil
	}
	for {
		var fence int64
		var alive bool
		err := s.read.QueryRowContext(ctx, `SELECT owner, fence, EXISTS (SELECT 1 FROM node n WHERE n.id=r.owner AND n.until>`+dbNow+`) FROM room r WHERE room_id=?`, room).Scan(&owner, &fence, &alive)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return "", false, nil
		case err != nil:
			return "", false, fmt.Errorf("store: %w", err)
		case owner == s.nodeID:
			s.setFence(room, fence)
			return owner, true, nil
		case alive:
			return owner, false, nil
		}
		err = s.read.QueryRowContext(ctx, `UPDATE room SET owner=?, fence=fence+1 WHERE room_id=? AND owner=? AND fence=? RETURNING fence`, s.nodeID, room, owner, fence).Scan(&fence)
		switch {
		case errors.Is(err, sql.ErrNoRows): // somebody was faster
		case err != nil:
			return "", false, fmt.Errorf("store: %w", err)
		default:
			s.setFence(room, fence)
			return s.nodeID, true, nil
		}
	}
}

// Adopt takes rooms over whose owners are gone, some hundred at once, and returns them.
func (s *Store) Adopt(ctx context.Context) (rooms []string, err error) {
	rows, err := s.read.QueryContext(ctx, `UPDATE room SET owner=?, fence=fence+1 WHERE room_id IN (SELECT room_id FROM room r
		WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.id=r.owner AND n.until>`+dbNow+`) LIMIT 500 FOR UPDATE SKIP LOCKED) RETURNING room_id, fence`, s.nodeID)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var room string
		var fence int64
		if err := rows.Scan(&room, &fence); err != nil {
			return rooms, fmt.Errorf("store: %w", err)
		}
		s.setFence(room, fence)
		rooms = append(rooms, room)
	}
	if err := rows.Err(); err != nil {
		return rooms, fmt.Errorf("store: %w", err)
	}
	return rooms, nil
}

// Hold tries to get a lease: something only one node may do. Once it has one it keeps it for its life.
func (s *Store) Hold(ctx context.Context, name string) (bool, error) {
	if s.Holds(name) {
		return true, nil
	}
	var fence int64
	err := s.read.QueryRowContext(ctx, `INSERT INTO lease (name, node, fence) VALUES (?, ?, 1) ON CONFLICT (name) DO UPDATE SET node=excluded.node, fence=lease.fence+1
		WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.id=lease.node AND n.until>`+dbNow+`) RETURNING fence`, name, s.nodeID).Scan(&fence)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("store: %w", err)
	}
	s.node.mu.Lock()
	s.node.held[name] = true
	s.node.mu.Unlock()
	return true, nil
}

// Holds reports whether this node has the lease.
func (s *Store) Holds(name string) bool {
	if !s.postgres() {
		return true
	}
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	return s.node.held[name]
}

// Holder says which living node has a lease, "" if none.
func (s *Store) Holder(ctx context.Context, name string) (node string, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT node FROM lease WHERE name=? AND EXISTS (SELECT 1 FROM node n WHERE n.id=lease.node AND n.until>`+dbNow+`)`, name).Scan(&node)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("store: %w", err)
	}
	return node, nil
}

// Signal tells the other nodes that there may be something to do: "room " and its name, "deliver" and an adapter's, or "poll". It
// may get lost; each node looks by itself once a second.
func (s *Store) Signal(ctx context.Context, what string) {
	if s.postgres() {
		s.signal(ctx, what)
	}
}

func (s *Store) signal(ctx context.Context, what string) {
	if len(what) > 7000 {
		what = "poll"
	}
	s.read.ExecContext(ctx, `SELECT pg_notify('`+channel+`', ?)`, what)
}

// Listen calls fn for what other nodes signal, until ctx is done. It connects again when the connection is lost.
func (s *Store) Listen(ctx context.Context, fn func(what string)) {
	for ctx.Err() == nil {
		s.listen(ctx, fn)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
			fn("poll")
		}
	}
}

func (s *Store) listen(ctx context.Context, fn func(string)) {
	c, err := parsePostgres(s.o.Postgres, "")
	if err != nil {
		return
	}
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return
		}
		if id, ok := strings.CutPrefix(n.Payload, "answer "); ok {
			s.node.mu.Lock()
			if ch := s.node.waits[id]; ch != nil {
				select {
				case ch <- struct{}{}:
				default:
				}
			}
			s.node.mu.Unlock()
			continue
		}
		if node, ok := strings.CutPrefix(n.Payload, "ask "); ok && node != s.nodeID {
			continue
		}
		fn(n.Payload)
	}
}

// NodeRequest is what another node asks this one.
type NodeRequest struct {
	ID   string
	Args []byte
}

// Ask has another node do something and waits for its answer, which is stored: it comes even if that node ends right after.
// ErrNodeGone says that there is no answer and never will be one; it may have been done nevertheless.
func (s *Store) Ask(ctx context.Context, node string, args []byte) ([]byte, error) {
	id := hex.EncodeToString(randomBytes(16))
	wake := make(chan struct{}, 1)
	s.node.mu.Lock()
	s.node.waits[id] = wake
	s.node.mu.Unlock()
	defer func() {
		s.node.mu.Lock()
		delete(s.node.waits, id)
		s.node.mu.Unlock()
	}()
	if _, err := s.read.ExecContext(ctx, `INSERT INTO node_request (id, node, status, args, created) VALUES (?, ?, 0, ?, `+dbNow+`)`,
		id, node, s.sealer.Seal("node_request", id, "args", args)); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	s.signal(ctx, "ask "+node)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-wake:
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		var status int
		var sealed []byte
		var alive bool
		err := s.read.QueryRowContext(ctx, `SELECT status, answer, EXISTS (SELECT 1 FROM node n WHERE n.id=r.node AND n.until>`+dbNow+`) FROM node_request r WHERE id=?`, id).Scan(&status, &sealed, &alive)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil, ErrNodeGone
		case err != nil:
			return nil, fmt.Errorf("store: %w", err)
		case status == requestDone:
			s.read.ExecContext(ctx, `DELETE FROM node_request WHERE id=?`, id)
			return s.sealer.Open("node_request", id, "answer", sealed)
		case alive:
			continue
		}
		r, err := s.read.ExecContext(ctx, `DELETE FROM node_request WHERE id=? AND status<?`, id, requestDone)
		if err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		if n, _ := r.RowsAffected(); n > 0 {
			return nil, ErrNodeGone
		}
	}
}

const requestDone = 2 // 0 waits, 1 taken up

// Requests takes up what other nodes ask of this one.
func (s *Store) Requests(ctx context.Context) (rs []NodeRequest, err error) {
	rows, err := s.read.QueryContext(ctx, `UPDATE node_request SET status=1 WHERE id IN (SELECT id FROM node_request WHERE node=? AND status=0 LIMIT 200 FOR UPDATE SKIP LOCKED) RETURNING id, args`, s.nodeID)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var r NodeRequest
		var sealed []byte
		if err := rows.Scan(&r.ID, &sealed); err != nil {
			return rs, fmt.Errorf("store: %w", err)
		}
		if r.Args, err = s.sealer.Open("node_request", r.ID, "args", sealed); err != nil {
			return rs, err
		}
		rs = append(rs, r)
	}
	if err := rows.Err(); err != nil {
		return rs, fmt.Errorf("store: %w", err)
	}
	return rs, nil
}

// AnswerRequest stores the answer to a request.
func (s *Store) AnswerRequest(ctx context.Context, id string, answer []byte) error {
	if _, err := s.read.ExecContext(ctx, `UPDATE node_request SET status=?, answer=? WHERE id=?`, requestDone, s.sealer.Seal("node_request", id, "answer", answer), id); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	s.signal(ctx, "answer "+id)
	return nil
}

// CleanNodes forgets nodes that are long gone and requests nobody waits for any more.
func (s *Store) CleanNodes(ctx context.Context) error {
	_, err := s.read.ExecContext(ctx, `DELETE FROM node WHERE until<`+dbNow+`-3600000`)
	_, err2 := s.read.ExecContext(ctx, `DELETE FROM node_request WHERE created<`+dbNow+`-3600000`)
	return errors.Join(err, err2)
}

// fenced are the tables whose rows belong to a room and so to its owner.
var fenced = map[string]bool{"hub_room": true, "hub_end": true, "hub_log": true, "hub_cursor": true, "hub_answer": true, "hub_route": true,
	"client_room": true, "client_count": true, "client_ratchet": true, "client_pending": true, "inbox": true, "seen": true, "intent": true, "event": true, "message": true, "room_due": true}

var (
	writes = regexp.MustCompile(`^\s*(INSERT INTO|UPDATE|DELETE FROM)\s+(\w+)`)
	// inboxStatement are the additions that any node may make.
	inboxStatement = regexp.MustCompile(`^\s*(INSERT INTO (intent|inbox|seen|client_room|client_count) |UPDATE client_count SET last_(intent|inbox)=)`)
	columns        = regexp.MustCompile(`\(([\w, ]+)\)\s*VALUES`)
	condition      = regexp.MustCompile(`\broom_id=\?`)
)

// guard says of a statement whether it changes one room's rows: which parameter names the room, -1 if none does.
type guard struct {
	param int
	inbox bool
}

var guards sync.Map // statement → guard

func guardOf(q string) guard {
	if g, ok := guards.Load(q); ok {
		return g.(guard)
	}
	g := guard{param: -1}
	if m := writes.FindStringSubmatch(q); m != nil && fenced[m[2]] {
		g.inbox = inboxStatement.MatchString(q)
		if m[1] == "INSERT INTO" {
			if c := columns.FindStringSubmatch(q); c != nil {
				for i, name := range strings.Split(c[1], ",") {
					if strings.TrimSpace(name) == "room_id" {
						g.param = i
					}
				}
			}
		} else if at := condition.FindStringIndex(q); at != nil {
			g.param = strings.Count(q[:at[0]], "?")
		}
	}
	guards.Store(q, g)
	return g
}

// fence makes sure, before a statement that changes a room's rows, that this node owns the room.
func (tx *Tx) fence(q string, args []any) error {
	if !tx.s.postgres() {
		return nil
	}
	g := guardOf(q)
	if g.param < 0 || g.param >= len(args) {
		return nil
	}
	room, ok := args[g.param].(string)
	if !ok || tx.locked[room] {
		return nil
	}
	if tx.alone && g.inbox {
		return nil
	}
	s := tx.s
	look := func(how string) (owner string, fence int64, err error) {
		err = tx.conn.QueryRowContext(tx.ctx, `SELECT owner, fence FROM room WHERE room_id=?`+how, room).Scan(&owner, &fence)
		return owner, fence, err
	}
	if !s.Mine(room) { // another node's row is not locked here: this transaction may hold what that node waits for
		owner, _, err := look("")
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil
		case err != nil:
			return fmt.Errorf("store: %w", err)
		case owner != s.nodeID && g.inbox:
			return errElsewhere
		case owner != s.nodeID:
			return ErrNotOwner
		}
	}
	owner, fence, err := look(" FOR UPDATE")
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	s.node.mu.Lock()
	was, known := s.node.fences[room]
	s.node.mu.Unlock()
	if owner != s.nodeID || known && was != fence {
		s.lost(room)
		return ErrNotOwner
	}
	s.setFence(room, fence)
	if tx.locked == nil {
		tx.locked = map[string]bool{}
	}
	tx.locked[room] = true
	return nil
}

// updateAlone runs fn in a transaction of its own, beside the writer's.
func (s *Store) updateAlone(ctx context.Context, fn func(*Tx) error) (err error) {
	conn, err := s.read.Conn(ctx)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer conn.Close()
	tx := &Tx{s: s, ctx: context.WithoutCancel(ctx), conn: conn, alone: true}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("store: panic in a transaction: %v", p)
		}
		if err != nil {
			tx.exec0("ROLLBACK")
		}
	}()
	if err := tx.exec0("BEGIN"); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.exec0("COMMIT"); err != nil {
		return fmt.Errorf("store: commit: %w", err)
	}
	return nil
}
