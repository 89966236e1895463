package matrix

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/fault"
)

// inbox carries out what the homeserver has sent: one goroutine a Matrix room with work, one event after the other, in
// order of arrival. Events wait in the database, so a room that cannot go on costs no memory.
type inbox struct {
	b   *bridge
	ctx context.Context // of Run

	mu     sync.Mutex
	active map[id.RoomID]bool // a goroutine serves the room; true: look again before ending
	closed bool
	work   sync.WaitGroup
}

// start takes up what was left when the program ended.
func (in *inbox) start(ctx context.Context) error {
	rooms, err := in.b.st.pendingRooms(ctx)
	if err != nil {
		return err
	}
	in.poke(rooms...)
	return nil
}

// poke tells that rooms have events.
func (in *inbox) poke(rooms ...id.RoomID) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return
	}
	if in.active == nil {
		in.active = map[id.RoomID]bool{}
	}
	for _, room := range rooms {
		if _, running := in.active[room]; running {
			in.active[room] = true
			continue
		}
		in.active[room] = false
		in.work.Go(func() { in.serve(room) })
	}
}

// wait ends the taking of work and waits for the goroutines, whose context has ended.
func (in *inbox) wait() {
	in.mu.Lock()
	in.closed = true
	in.mu.Unlock()
	in.work.Wait()
}

func (in *inbox) serve(room id.RoomID) {
	failures := 0
	for in.ctx.Err() == nil {
		ev, ok, err := in.b.st.pending(in.ctx, room)
		if err == nil && !ok {
			in.mu.Lock()
			again := in.active[room]
			if again {
				in.active[room] = false
			} else {
				delete(in.active, room)
			}
			in.mu.Unlock()
			if again {
				continue
			}
			return
		}
		if err == nil {
			err = in.one(ev, failures)
		}
		if err == nil {
			failures = 0
			continue
		}
		failures++
		pause := min(100*time.Millisecond<<min(failures, 10), 30*time.Second)
		var f *fault.Error
		if errors.As(err, &f) && f.RetryAfter > 0 {
			pause = f.RetryAfter
		}
		if in.ctx.Err() == nil && in.b.seldom("inbox "+string(room)) {
			in.b.log.Warn().Err(err).Str("matrix_room", string(room)).Str("event", string(ev.id)).Dur("pause_ms", pause).Msg("an event cannot be carried out now; trying again")
		}
		select {
		case <-in.ctx.Done():
		case <-time.After(pause):
		}
	}
	in.mu.Lock()
	delete(in.active, room)
	in.mu.Unlock()
}

// panics is how often an event may make its handler panic before it is given up.
const panics = 3

var errPanic = errors.New("matrix: panic")

// one carries out an event and marks it. A nil return means that the next one is due.
func (in *inbox) one(ev incoming, failures int) (err error) {
	b := in.b
	b.working.RLock()
	defer b.working.RUnlock()
	if b.gone.Load() {
		return b.st.finish(ev.id, stateGivenUp)
	}
	var effects []func(*sql.Tx) error
	state := stateDone
	func() {
		defer func() {
			if r := recover(); r != nil {
				b.log.Error().Str("event", string(ev.id)).Str("matrix_room", string(ev.room)).Str("stack", string(debug.Stack())).Msgf("panic while carrying out an event: %v", r)
				effects, err = nil, errPanic
			}
		}()
		effects, state, err = b.carryOut(in.ctx, ev)
	}()
	switch {
	case err == nil:
	case in.ctx.Err() != nil:
		return in.ctx.Err()
	case errors.Is(err, errPanic) && failures < panics-1:
		return err
	case errors.Is(err, errNotYet):
		// The room is being taken over. What is said in it comes after what was said before, so it waits; invitations
		// behind it must not.
		_, err := b.st.park(ev)
		return err
	case !errors.Is(err, errPanic) && fault.Temporary(err):
		return err
	default:
		state = stateGivenUp
		b.log.Error().Err(err).Str("event", string(ev.id)).Str("matrix_room", string(ev.room)).Msg("an event was given up")
	}
	return b.st.finish(ev.id, state, effects...)
}

var errNotYet = errors.New("matrix: the room is not admitted yet")

// carryOut does what an event asks for. It may be called again for the same event after an error or a crash. What
// it returns as effects is to be stored together with the mark that the event is done, also if the event is given up.
func (b *bridge) carryOut(ctx context.Context, in incoming) (effects []func(*sql.Tx) error, state int, err error) {
	ev, err := parseEvent(in.body)
	if err != nil {
		return nil, stateDone, fault.Wrap(fault.Malformed, "", fmt.Errorf("matrix: stored event: %w", err))
	}
	if ev.Type == "m.room.member" {
		effects, err = b.onMember(ctx, ev)
		return effects, stateDone, err
	}
	if isPolicyRule(ev.Type) {
		return nil, stateDone, b.onPolicyRule(ctx, ev)
	}
	if isState(ev.Type) && ev.StateKey != nil {
		return nil, stateDone, b.onState(ctx, ev)
	}
	handed, err := b.onMessage(ctx, ev)
	if handed {
		return nil, stateHanded, err
	}
	return nil, stateDone, err
}
