package store

// What administration asks: whole tables, read now and then, never on the way of a message.

// RoomRow is what the tables say about one room. HubStatus and ClientStatus are -1 if it is not kept here, or not entered.
type RoomRow struct {
	Room         string
	HubStatus    int64
	HubEpoch     uint64
	ClientStatus int64
	ClientEpoch  uint64
	Created      int64 // ms
	View         []byte
}

const selectRoomRow = `SELECT r.room_id, coalesce(h.status, -1), coalesce(h.epoch, 0), coalesce(c.status, -1), coalesce(c.epoch, 0), r.created, c.view
	FROM room r LEFT JOIN hub_room h ON h.room_id=r.room_id LEFT JOIN client_room c ON c.room_id=r.room_id `

func (r *RoomRow) dest() []any {
	return []any{&r.Room, &r.HubStatus, &r.HubEpoch, &r.ClientStatus, &r.ClientEpoch, &r.Created, &r.View}
}

// RoomRows lists all rooms, those that ended included, in the order of their URIs.
func (tx *Tx) RoomRows() (rows []RoomRow, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var r RoomRow
		if err := scan(r.dest()...); err != nil {
			return err
		}
		rows = append(rows, r)
		return nil
	}, selectRoomRow+`ORDER BY r.room_id`)
	return rows, err
}

// RoomRow gives one room.
func (tx *Tx) RoomRow(room string) (r RoomRow, ok bool, err error) {
	ok, err = tx.one(r.dest(), selectRoomRow+`WHERE r.room_id=?`, room)
	return r, ok, err
}

// Waiting is something that waits: for a follower (Kind "peer", Target its domain), for a user's wish to be carried out
// ("intent", Target the user), for an adapter to show it ("event", Target the adapter), or to be processed ("inbox").
type Waiting struct {
	Kind, Room, Target string
	N                  int
	Oldest             int64 // ms, 0 if not known
}

// Waiting lists all queues that are not empty. adapters are those that events are counted for.
func (tx *Tx) Waiting(adapters []string) (ws []Waiting, err error) {
	take := func(kind, target string) func(scan func(...any) error) error {
		return func(scan func(...any) error) error {
			w := Waiting{Kind: kind, Target: target}
			dest := []any{&w.Room, &w.N, &w.Oldest}
			if target == "" {
				dest = append(dest, &w.Target)
			}
			if err := scan(dest...); err != nil {
				return err
			}
			ws = append(ws, w)
			return nil
		}
	}
	if err := tx.each(take("peer", ""), `SELECT c.room_id, count(*), coalesce(min(l.ts), 0), c.peer FROM hub_cursor c
		JOIN hub_log l ON l.room_id=c.room_id AND l.seq>c.done AND l.seq<=c.last AND l.audience LIKE '% '||c.peer||' %'
		WHERE c.done<c.last GROUP BY c.room_id, c.peer ORDER BY c.room_id, c.peer`); err != nil {
		return nil, err
	}
	if err := tx.each(take("intent", ""), `SELECT room_id, count(*), coalesce(min(created), 0), actor FROM intent WHERE status<2 GROUP BY room_id, actor ORDER BY room_id, actor`); err != nil {
		return nil, err
	}
	for _, a := range adapters {
		if err := tx.each(take("event", a), `SELECT e.room_id, count(*), coalesce(min(e.ts), 0) FROM event e
			LEFT JOIN delivery d ON d.room_id=e.room_id AND d.adapter=? WHERE e.seq>coalesce(d.done, 0) GROUP BY e.room_id ORDER BY e.room_id`, a); err != nil {
			return nil, err
		}
	}
	err = tx.each(take("inbox", "client"), `SELECT room_id, count(*), 0 FROM inbox GROUP BY room_id ORDER BY room_id`)
	return ws, err
}

// FollowerRow is how far a follower is in a room kept here.
type FollowerRow struct {
	Room, Peer string
	Done, Last uint64
}

// Followers lists the followers of all rooms kept here.
func (tx *Tx) Followers() (fs []FollowerRow, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var f FollowerRow
		if err := scan(&f.Room, &f.Peer, &f.Done, &f.Last); err != nil {
			return err
		}
		fs = append(fs, f)
		return nil
	}, `SELECT room_id, peer, done, last FROM hub_cursor ORDER BY room_id, peer`)
	return fs, err
}

// DropQueue gives up what waits for a follower in one room; it joins the room anew when it notices.
func (tx *Tx) DropQueue(q Queue) (bool, error) {
	n, err := tx.exec(`UPDATE hub_cursor SET batch=0, done=last WHERE room_id=? AND peer=? AND done<last`, q.Room, q.Peer)
	return n > 0, err
}

// DropEvents gives up what an adapter has not shown of one room.
func (tx *Tx) DropEvents(room, adapter string) (bool, error) {
	n, err := tx.exec(`INSERT INTO delivery (room_id, adapter, done) SELECT room_id, ?, last_event FROM client_count WHERE room_id=?
		ON CONFLICT (room_id, adapter) DO UPDATE SET done=excluded.done`, adapter, room)
	return n > 0, err
}

// Users lists the local users who have an MLS identity.
func (tx *Tx) Users() (users []string, err error) {
	return tx.texts(`SELECT user FROM identity ORDER BY user`)
}
