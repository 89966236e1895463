package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/store"
)

// nodes is this provider among others that share its PostgreSQL database: it says that this node lives, takes over the rooms of
// those that do not, and leads what needs a room's owner, or the node with an adapter's link, to that node. See
// docs/architecture.md, "More than one node". With SQLite all of it leads here.
type nodes struct {
	p    *Provider
	st   *store.Store
	log  zerolog.Logger
	work sync.WaitGroup
	wake chan struct{} // capacity 1
}

// call is what one node asks of another.
type call struct {
	Method string `json:"method"`
	From   string `json:"from,omitempty"`
	Room   string `json:"room,omitempty"`
	Target string `json:"target,omitempty"`
	Body   []byte `json:"body,omitempty"`
}

// reply is its answer: a body, or a fault.
type reply struct {
	Body   []byte        `json:"body,omitempty"`
	Failed bool          `json:"failed,omitempty"`
	Fault  fault.Kind    `json:"fault,omitempty"`
	Text   string        `json:"text,omitempty"` // for the other side
	After  time.Duration `json:"after,omitempty"`
	Owner  bool          `json:"owner,omitempty"` // the node asked does not own the room
}

const (
	methodKeys      = "hub.keyMaterial"
	methodUpdate    = "hub.update"
	methodSubmit    = "hub.submit"
	methodGroupInfo = "hub.groupInfo"
	methodDestroy   = "hub.destroy"
	methodDrop      = "hub.drop"
	methodLocalUser = "adapter.localUser"
)

// run works until ctx is done. An error is final: this node has lost its place and must be started anew.
func (n *nodes) run(ctx context.Context) error {
	if !n.st.Shared() {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n.work.Go(func() {
		n.st.Listen(ctx, func(what string) { n.heard(ctx, what) })
	})
	n.work.Go(func() {
		tick := time.NewTicker(n.st.Lease() / 8)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			switch err := n.st.Beat(ctx); {
			case errors.Is(err, store.ErrLapsed):
				cancel(err)
			case err != nil && ctx.Err() == nil:
				n.log.Warn().Err(err).Msg("this node could not say that it lives")
			}
		}
	})
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last time.Time
	for {
		n.look(ctx)
		if time.Since(last) > time.Minute {
			last = time.Now()
			if err := n.st.CleanNodes(ctx); err != nil && ctx.Err() == nil {
				n.log.Warn().Err(err).Msg("cleaning up nodes")
			}
		}
		select {
		case <-ctx.Done():
			n.work.Wait()
			if err := context.Cause(ctx); errors.Is(err, store.ErrLapsed) {
				return err
			}
			return nil
		case <-tick.C:
		case <-n.wake:
		}
	}
}

// heard takes a signal of another node, on the listener's goroutine.
func (n *nodes) heard(ctx context.Context, what string) {
	switch kind, name, _ := strings.Cut(what, " "); kind {
	case "room":
		if n.st.Mine(name) {
			n.p.Client.Wake(name)
		}
	case "deliver":
		if n.st.Holds(port.LinkLease(name)) {
			n.p.Client.WakeDeliveries(ctx, name)
		}
	default:
		select {
		case n.wake <- struct{}{}:
		default:
		}
	}
}

// look does what is done once a second, or when it is signalled.
func (n *nodes) look(ctx context.Context) {
	for {
		rooms, err := n.st.Adopt(ctx)
		for _, r := range rooms {
			n.taken(r)
		}
		if len(rooms) > 0 {
			n.log.Info().Int("rooms", len(rooms)).Msg("rooms whose node is gone are kept here now")
		}
		if err != nil && ctx.Err() == nil {
			n.log.Warn().Err(err).Msg("looking for rooms whose node is gone")
		}
		if err != nil || len(rooms) == 0 {
			break
		}
	}
	reqs, err := n.st.Requests(ctx)
	if err != nil && ctx.Err() == nil {
		n.log.Warn().Err(err).Msg("looking for requests of other nodes")
	}
	for _, r := range reqs {
		n.work.Go(func() { n.answer(ctx, r) })
	}
	if err := n.p.Client.WakeAll(ctx); err != nil && ctx.Err() == nil {
		n.log.Warn().Err(err).Msg("looking for rooms with work")
	}
	for _, h := range n.p.hosts {
		if name := h.adapter.Name(); n.st.Holds(port.LinkLease(name)) {
			n.p.Client.WakeDeliveries(ctx, name)
		}
	}
}

// taken: the room is this node's from now on.
func (n *nodes) taken(room string) {
	n.p.Hub.Reload(room)
	n.p.Client.Reload(room)
}

// alone runs fn once this node has the lease; fn then runs until ctx is done.
func (n *nodes) alone(ctx context.Context, lease string, fn func(context.Context) error) error {
	for n.st.Shared() {
		ok, err := n.st.Hold(ctx, lease)
		if ok {
			n.log.Info().Str("lease", lease).Msg("this node has the lease")
			break
		}
		if err != nil && ctx.Err() == nil {
			n.log.Warn().Err(err).Str("lease", lease).Msg("trying to get a lease")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
	return fn(ctx)
}

// at runs what needs a room's owner where that is.
func (n *nodes) at(ctx context.Context, room mimiuri.URI, c call, local func() ([]byte, error)) ([]byte, error) {
	id := room.String()
	for try := 0; ; try++ {
		if n.st.Mine(id) && try < 3 {
			b, err := local()
			if errors.Is(err, store.ErrNotOwner) {
				continue
			}
			return b, err
		}
		owner, taken, err := n.st.Own(ctx, id)
		switch {
		case err != nil:
			return nil, fault.Wrap(fault.Unavailable, "it cannot be done now; please try again", err)
		case owner == "": // there is no such room; making one needs no owner
			return local()
		case owner == n.st.NodeID():
			if taken {
				n.taken(id)
			}
			if try >= 3 {
				return nil, store.ErrNotOwner
			}
			continue
		}
		c.Room = id
		b, err := n.ask(ctx, owner, c)
		if errors.Is(err, store.ErrNodeGone) || errors.Is(err, store.ErrNotOwner) && try < 5 {
			continue
		}
		return b, err
	}
}

func (n *nodes) ask(ctx context.Context, node string, c call) ([]byte, error) {
	args, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	b, err := n.st.Ask(ctx, node, args)
	if err != nil {
		return nil, err
	}
	var r reply
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("core: another node's answer: %w", err)
	}
	switch {
	case r.Owner:
		return nil, store.ErrNotOwner
	case r.Failed:
		return nil, &fault.Error{Kind: r.Fault, Message: r.Text, RetryAfter: r.After}
	}
	return r.Body, nil
}

// answer does what another node asks.
func (n *nodes) answer(ctx context.Context, req store.NodeRequest) {
	var r reply
	body, err := func() (b []byte, err error) {
		defer func() {
			if p := recover(); p != nil {
				n.log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Msg("a request of another node panicked")
				err = fault.New(fault.Internal, "")
			}
		}()
		return n.do(ctx, req.Args)
	}()
	if r.Body = body; err != nil {
		r = reply{Failed: true, Fault: fault.KindOf(err), Owner: errors.Is(err, store.ErrNotOwner)}
		var f *fault.Error
		if errors.As(err, &f) {
			r.Text, r.After = f.Message, f.RetryAfter
		}
	}
	b, err := json.Marshal(r)
	if err == nil {
		err = n.st.AnswerRequest(context.WithoutCancel(ctx), req.ID, b)
	}
	if err != nil {
		n.log.Warn().Err(err).Msg("an answer to another node could not be stored")
	}
}

func (n *nodes) do(ctx context.Context, args []byte) ([]byte, error) {
	var c call
	if err := json.Unmarshal(args, &c); err != nil {
		return nil, fault.Wrap(fault.Malformed, "", err)
	}
	if c.Method == methodLocalUser {
		user, err := mimiuri.ParseKind(c.Target, mimiuri.User)
		if err != nil {
			return nil, err
		}
		for _, h := range n.p.hosts {
			if h.adapter.Name() == c.From {
				ok, err := h.adapter.LocalUser(ctx, user)
				if ok {
					return []byte("1"), err
				}
				return nil, err
			}
		}
		return nil, fault.New(fault.Unavailable, "")
	}
	room, err := mimiuri.ParseKind(c.Room, mimiuri.Room)
	if err != nil {
		return nil, err
	}
	if !n.st.Mine(c.Room) {
		owner, taken, err := n.st.Own(ctx, c.Room)
		if err != nil {
			return nil, err
		}
		if owner != n.st.NodeID() {
			return nil, store.ErrNotOwner
		}
		if taken {
			n.taken(c.Room)
		}
	}
	switch c.Method {
	case methodKeys:
		target, err := mimiuri.ParseKind(c.Target, mimiuri.User)
		if err != nil {
			return nil, err
		}
		return n.p.Hub.KeyMaterial(ctx, c.From, room, target, c.Body)
	case methodUpdate:
		return n.p.Hub.Update(ctx, c.From, room, c.Body)
	case methodSubmit:
		return n.p.Hub.Submit(ctx, c.From, room, c.Body)
	case methodGroupInfo:
		return n.p.Hub.GroupInfo(ctx, c.From, room, c.Body)
	case methodDestroy:
		return nil, n.p.Hub.Destroy(ctx, room)
	case methodDrop:
		return n.p.dropQueue(ctx, room, c.Target)
	}
	return nil, fault.New(fault.Malformed, "this node does not know the request")
}

// hubAtOwner is the own hub as every node offers it.
type hubAtOwner struct {
	port.Hub
	n *nodes
}

func (h hubAtOwner) KeyMaterial(ctx context.Context, from string, room, target mimiuri.URI, body []byte) ([]byte, error) {
	return h.n.at(ctx, room, call{Method: methodKeys, From: from, Target: target.String(), Body: body}, func() ([]byte, error) {
		return h.Hub.KeyMaterial(ctx, from, room, target, body)
	})
}

func (h hubAtOwner) Update(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	return h.n.at(ctx, room, call{Method: methodUpdate, From: from, Body: body}, func() ([]byte, error) { return h.Hub.Update(ctx, from, room, body) })
}

func (h hubAtOwner) Submit(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	return h.n.at(ctx, room, call{Method: methodSubmit, From: from, Body: body}, func() ([]byte, error) { return h.Hub.Submit(ctx, from, room, body) })
}

func (h hubAtOwner) GroupInfo(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	return h.n.at(ctx, room, call{Method: methodGroupInfo, From: from, Body: body}, func() ([]byte, error) { return h.Hub.GroupInfo(ctx, from, room, body) })
}

// localUser asks the adapter, at the node that has its link.
func (n *nodes) localUser(ctx context.Context, a adapter.Adapter, user mimiuri.URI) (bool, error) {
	if n.p.deletions.has(user) {
		return false, nil
	}
	lease := port.LinkLease(a.Name())
	if n.st.Holds(lease) {
		return a.LocalUser(ctx, user)
	}
	node, err := n.st.Holder(ctx, lease)
	if err != nil {
		return false, err
	}
	if node == "" {
		return false, fault.New(fault.Unavailable, "it cannot be said now; please try again")
	}
	b, err := n.ask(ctx, node, call{Method: methodLocalUser, From: a.Name(), Target: user.String()})
	if errors.Is(err, store.ErrNodeGone) {
		return false, fault.New(fault.Unavailable, "it cannot be said now; please try again")
	}
	return len(b) > 0, err
}
