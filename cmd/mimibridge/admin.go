package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mimibridge/mimibridge/adapters/console"
	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/internal/admin"
)

// asker is a command that asks the running daemon.
type asker struct {
	e      *env
	fs     *flag.FlagSet
	path   *string
	socket *string
	json   *bool
	*admin.Client
}

func ask(e *env, name, about string) *asker {
	a := &asker{e: e, fs: flags(e, name, about)}
	a.path = configFlag(a.fs)
	a.socket = a.fs.String("socket", os.Getenv("MIMIBRIDGE_SOCKET"), "the daemon's admin `socket`, instead of what the configuration says")
	a.json = a.fs.Bool("json", false, "print JSON, for scripts")
	return a
}

// parse parses the command line and prepares the connection.
func (a *asker) parse(args []string, least, most int) ([]string, error) {
	rest, err := parseArgs(a.fs, args, least, most)
	if err != nil {
		return nil, err
	}
	socket := *a.socket
	if socket == "" {
		c, err := config.Load(*a.path)
		if err != nil {
			return nil, errorWithHint(err, "-c FILE names the daemon's configuration, -socket PATH its admin socket")
		}
		socket = c.Admin.Socket
	}
	a.Client = admin.NewClient(socket)
	return rest, nil
}

// get asks and prints: as JSON, or by show.
func get[T any](ctx context.Context, a *asker, path string, q url.Values, show func(T)) error {
	var v T
	if err := a.Get(ctx, path, q, &v); err != nil {
		return hinted(err)
	}
	a.print(v, func() { show(v) })
	return nil
}

// lister is a command without arguments that prints what the daemon answers: as JSON, or by show.
func lister[T any](name, about, path string, show func(w io.Writer, list T)) func(context.Context, *env, []string) error {
	return func(ctx context.Context, e *env, args []string) error {
		a := ask(e, name, about)
		if _, err := a.parse(args, 0, 0); err != nil {
			return err
		}
		return get(ctx, a, path, nil, func(list T) { show(e.out, list) })
	}
}

func lines(w io.Writer, list []string) {
	for _, s := range list {
		fmt.Fprintln(w, s)
	}
}

// sender is a command that hands its one argument to the daemon.
func sender(name, about, path string, put func(q *admin.Query, arg string)) func(context.Context, *env, []string) error {
	return func(ctx context.Context, e *env, args []string) error {
		a := ask(e, name, about)
		rest, err := a.parse(args, 1, 1)
		if err != nil {
			return err
		}
		var q admin.Query
		put(&q, rest[0])
		return hinted(a.Post(ctx, path, q, nil))
	}
}

func (a *asker) print(v any, show func()) {
	if *a.json {
		enc := json.NewEncoder(a.e.out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		_ = enc.Encode(v)
		return
	}
	show()
}

func hinted(err error) error {
	if errors.Is(err, admin.ErrNotRunning) {
		return errorWithHint(err, "start it with `mimibridge run`, as the user who runs this command, or as root")
	}
	return err
}

// table prints columns; with the head only if there are rows.
func table(w io.Writer, head string, rows [][]string) {
	if len(rows) == 0 {
		fmt.Fprintln(w, "none")
		return
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(head, " ", "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	t.Flush()
}

// ago is how long something is past, short.
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

const aboutStatus = `
Prints how the running daemon is: since when it serves, its rooms, what waits, which peers cannot be reached. Exit status 0 if it
is ready, 1 if not, 3 if there is none.`

func cmdStatus(ctx context.Context, e *env, args []string) error {
	a := ask(e, "status", aboutStatus)
	if _, err := a.parse(args, 0, 0); err != nil {
		return err
	}
	ready := false
	err := get(ctx, a, "/v1/status", nil, func(s admin.Status) {
		ready = s.Ready
		state := "ready for " + ago(s.Started)
		if !s.Ready {
			state = "not ready: " + s.Why
		}
		fmt.Fprintf(e.out, "%s  %s\n%s\n\n", s.Domain, state, s.Version)
		fmt.Fprintf(e.out, "rooms   %d open, of them kept here %d\n", s.Rooms["open"], s.Hub)
		fmt.Fprintf(e.out, "peers   %d\n", s.Peers)
		if len(s.Failing) > 0 {
			fmt.Fprintf(e.out, "        not reached at the last try: %s\n", strings.Join(s.Failing, ", "))
		}
		waits := []string{}
		for _, k := range slices.Sorted(maps.Keys(s.Queues)) {
			waits = append(waits, fmt.Sprintf("%d of kind %s", s.Queues[k], k))
		}
		if len(waits) == 0 {
			waits = []string{"nothing"}
		}
		fmt.Fprintf(e.out, "waiting %s\n", strings.Join(waits, ", "))
		fmt.Fprintf(e.out, "since the start: %d messages sent, %d received, %d accepted as hub\n", s.Counters["client.sent"], s.Counters["client.received"], s.Counters["hub.accepted"])
	})
	if err == nil && !*a.json && !ready {
		return errors.New("the daemon is not ready")
	}
	return err
}

const aboutHealth = `
Exits with 0 if the daemon is ready and with 1 or 3 if not, and prints why. This is the health check of the container image.`

func cmdHealth(ctx context.Context, e *env, args []string) error {
	a := ask(e, "health", aboutHealth)
	if _, err := a.parse(args, 0, 0); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return hinted(a.Get(ctx, "/readyz", nil, e.out))
}

const aboutChat = `
Talks through the running daemon, as any user of it, in a room of any provider: mimibridge chat -as alice mimi://hub.example/r/room. Without a
room it shows all rooms of the user. A line is a message; /help lists what else there is. With -json it reads requests and
writes what happens, one JSON object a line: {"do": "say", "text": "hello"}. The fields are those of Request, Reply and
Line in adapters/console.`

func cmdChat(ctx context.Context, e *env, args []string) error {
	a := ask(e, "chat", aboutChat)
	as := a.fs.String("as", "", "the `user`: a name, or mimi://DOMAIN/u/NAME (required)")
	last := a.fs.Int("last", 20, "how many old events are shown first")
	rest, err := a.parse(args, 0, 1)
	if err != nil {
		return err
	}
	if *as == "" {
		return errorWithHint(errors.New("-as is needed"), "as whom do you want to talk? -as NAME")
	}
	o := console.Options{Client: a.HTTP, URL: admin.Base + "/v1/console", As: *as, JSON: *a.json, Last: *last, In: e.in, Out: e.out}
	if len(rest) > 0 {
		o.Room = rest[0]
	}
	if e.terminal && !o.JSON {
		fmt.Fprintln(e.out, "A line is a message; /help lists what else there is, /quit ends.")
	}
	return hinted(a.Explain(console.Chat(ctx, o)))
}

func cmdRoomList(ctx context.Context, e *env, args []string) error {
	a := ask(e, "room list", "Lists the rooms that are kept here or that users of this provider are in. -all lists those that ended, too.")
	all := a.fs.Bool("all", false, "those that are closed or left, too")
	if _, err := a.parse(args, 0, 0); err != nil {
		return err
	}
	return get(ctx, a, "/v1/rooms", nil, func(list []core.RoomInfo) {
		var rows [][]string
		for _, r := range list {
			if r.Status != "open" && r.Status != "new" && !*all {
				continue
			}
			role := "follower"
			if r.Hub {
				role = "hub"
			}
			rows = append(rows, []string{r.URI, role, r.Status, fmt.Sprint(r.Participants), fmt.Sprint(len(r.Followers)), fmt.Sprint(r.Epoch), r.Name})
		}
		table(e.out, "ROOM ROLE STATUS USERS FOLLOWERS EPOCH NAME", rows)
	})
}

// roomView is admin.RoomView with its types known.
type roomView struct {
	Room    core.RoomInfo  `json:"room"`
	Subject string         `json:"subject,omitempty"`
	Members []admin.Member `json:"members"`
	Offline bool           `json:"offline,omitempty"`
	Banned  []string       `json:"banned,omitempty"`
}

func cmdRoomShow(ctx context.Context, e *env, args []string) error {
	a := ask(e, "room show", "Prints one room: mimi://DOMAIN/r/NAME, or NAME for one of this provider.")
	rest, err := a.parse(args, 1, 1)
	if err != nil {
		return err
	}
	return get(ctx, a, "/v1/room", url.Values{"room": rest}, func(v roomView) {
		r := v.Room
		role := "a follower of " + strings.SplitN(strings.TrimPrefix(r.URI, "mimi://"), "/", 2)[0]
		if r.Hub {
			role = "kept here"
		}
		fmt.Fprintf(e.out, "%s\nname      %s\nsubject   %s\nstatus    %s, %s, epoch %d, since %s\nfollowers %s\n", r.URI, r.Name, v.Subject, r.Status, role, r.Epoch,
			r.Created.Format(time.DateOnly), strings.Join(r.Followers, ", "))
		if v.Offline {
			fmt.Fprintln(e.out, "its hub cannot be reached: what is sent waits")
		}
		fmt.Fprintln(e.out)
		members(e.out, v)
	})
}

func members(w io.Writer, v roomView) {
	var rows [][]string
	for _, m := range v.Members {
		may := "read"
		if m.Send {
			may = "write"
		}
		if m.Admin {
			may += ", change roles"
		}
		rows = append(rows, []string{m.User, m.Role, may})
	}
	for _, b := range v.Banned {
		rows = append(rows, []string{b, "banned", "nothing"})
	}
	table(w, "USER ROLE MAY", rows)
}

func cmdRoomMembers(ctx context.Context, e *env, args []string) error {
	a := ask(e, "room members", "Lists who is in a room, as the users of this provider see it.")
	rest, err := a.parse(args, 1, 1)
	if err != nil {
		return err
	}
	var v roomView
	if err := a.Get(ctx, "/v1/room", url.Values{"room": rest}, &v); err != nil {
		return hinted(err)
	}
	a.print(v.Members, func() { members(e.out, v) })
	return nil
}

func peerRows(list []core.Peer) (rows [][]string) {
	for _, p := range list {
		state := "-"
		switch {
		case p.Failure != "":
			state = "not reached for " + ago(p.LastFailure)
		case !p.LastSuccess.IsZero():
			state = "ok"
		}
		rows = append(rows, []string{p.Domain, fmt.Sprint(p.Rooms), fmt.Sprint(p.Queue), ago(p.LastSuccess), state})
	}
	return rows
}

const peerHead = "PEER ROOMS WAITING LAST STATE"

var cmdPeerList = lister("peer list", "Lists the providers that rooms are shared with, or that were asked something since the start.", "/v1/peers", func(w io.Writer, list []core.Peer) { table(w, peerHead, peerRows(list)) })

func cmdPeerShow(ctx context.Context, e *env, args []string) error {
	a := ask(e, "peer show", "Prints one provider, with the last failure.")
	rest, err := a.parse(args, 1, 1)
	if err != nil {
		return err
	}
	var list []core.Peer
	if err := a.Get(ctx, "/v1/peers", nil, &list); err != nil {
		return hinted(err)
	}
	i := slices.IndexFunc(list, func(p core.Peer) bool { return p.Domain == rest[0] })
	if i < 0 {
		return errorWithHint(fmt.Errorf("%w: nothing is shared with %s", errNotFound, rest[0]), "`mimibridge peer check "+rest[0]+"` tries whether it answers")
	}
	a.print(list[i], func() {
		table(e.out, peerHead, peerRows(list[i:i+1]))
		if list[i].Failure != "" {
			fmt.Fprintf(e.out, "\n%s\n", list[i].Failure)
		}
	})
	return nil
}

func cmdPeerCheck(ctx context.Context, e *env, args []string) error {
	a := ask(e, "peer check", "Has the daemon fetch a provider's directory now, with TLS as for everything else, and prints it.")
	rest, err := a.parse(args, 1, 1)
	if err != nil {
		return err
	}
	var v struct {
		Peer      string            `json:"peer"`
		Directory map[string]string `json:"directory"`
	}
	if err := a.Post(ctx, "/v1/peer/check", admin.Query{Peer: rest[0]}, &v); err != nil {
		return errorWithHint(hinted(err), "the log of the daemon has the reason: DNS, the connection, the certificate, or the document; `mimibridge peer show "+rest[0]+"` prints it too")
	}
	a.print(v, func() {
		for _, k := range slices.Sorted(maps.Keys(v.Directory)) {
			fmt.Fprintf(e.out, "ok  %-16s %s\n", k, v.Directory[k])
		}
	})
	return nil
}

func cmdPeerRetry(ctx context.Context, e *env, args []string) error {
	a := ask(e, "peer retry", "Ends the pauses of all deliveries to a provider that could not be reached; without one, to all.")
	rest, err := a.parse(args, 0, 1)
	if err != nil {
		return err
	}
	var v struct {
		Peers int `json:"peers"`
	}
	if err := a.Post(ctx, "/v1/peer/retry", admin.Query{Peer: strings.Join(rest, "")}, &v); err != nil {
		return hinted(err)
	}
	a.print(v, func() { fmt.Fprintf(e.out, "trying %d peers\n", v.Peers) })
	return nil
}

var cmdPeerRules = lister("peer rules", "Lists which providers are allowed and denied, by the configuration and by commands. Without an allowed one all may take part that are\nnot denied.", "/v1/peer/rules", func(w io.Writer, list []admin.PeerRule) {
	var rows [][]string
	for _, r := range list {
		rule, by := "denied", "a command, "+ago(r.Since)+" ago"
		if r.Allow {
			rule = "allowed"
		}
		if r.Config {
			by = "the configuration"
		}
		rows = append(rows, []string{r.Domain, rule, by})
	}
	table(w, "PEER RULE BY", rows)
})

func peerRule(name, about string) func(context.Context, *env, []string) error {
	return sender("peer "+name, about, "/v1/peer/"+name, func(q *admin.Query, arg string) { q.Peer = arg })
}

var cmdBlockList = lister("block list", "Lists what is blocked for everybody here.", "/v1/blocks", lines)

func blockCommand(name, about string) func(context.Context, *env, []string) error {
	return sender("block "+name, about, "/v1/block/"+name, func(q *admin.Query, arg string) { q.Target = arg })
}

var cmdUserList = lister("user list", "Lists the users who have used the provider.", "/v1/users", lines)

func cmdUserShow(ctx context.Context, e *env, args []string) error {
	a := ask(e, "user show", "Prints a user's rooms and contacts: a name, the network's address, or mimi://DOMAIN/u/NAME.")
	rest, err := a.parse(args, 1, 1)
	if err != nil {
		return err
	}
	return get(ctx, a, "/v1/user", url.Values{"user": rest}, func(v admin.UserView) {
		fmt.Fprintf(e.out, "%s\nmay be asked by: %s\n", v.User, v.Policy)
		if v.Deleting {
			fmt.Fprintln(e.out, "is being removed")
		}
		for _, r := range v.Rooms {
			fmt.Fprintf(e.out, "room    %s\n", r)
		}
		for _, c := range v.Contacts {
			fmt.Fprintf(e.out, "contact %s  lets them: %s  lets us: %s\n", c.User, c.Grants, c.Granted)
		}
		for _, b := range v.Blocked {
			fmt.Fprintf(e.out, "blocked %s\n", b)
		}
	})
}

const aboutConsent = `
mimibridge user consent USER ask|grant|refuse|forget OTHER does for a user what they could do themselves about somebody
elsewhere; mimibridge user consent USER policy ask|contacts|everyone|nobody sets who may ask them.`

func cmdUserConsent(ctx context.Context, e *env, args []string) error {
	a := ask(e, "user consent", aboutConsent)
	rest, err := a.parse(args, 3, 3)
	if err != nil {
		return err
	}
	q := admin.Query{User: rest[0], Action: rest[1], Other: rest[2]}
	if rest[1] == "policy" {
		q.Kind = rest[2]
	}
	return hinted(a.Post(ctx, "/v1/user/consent", q, nil))
}

func cmdUserExport(ctx context.Context, e *env, args []string) error {
	a := ask(e, "user export", "Prints all that is stored of a user as one JSON document.")
	rest, err := a.parse(args, 1, 1)
	if err != nil {
		return err
	}
	return hinted(a.Get(ctx, "/v1/user/export", url.Values{"user": rest}, e.out))
}

func cmdUserDelete(ctx context.Context, e *env, args []string) error {
	a := ask(e, "user delete", "Begins to remove a user: consent, rooms, rows, files, keys. It goes on in the background, and over restarts.")
	yes := a.fs.Bool("yes", false, "do not ask")
	rest, err := a.parse(args, 1, 1)
	if err != nil {
		return err
	}
	if err := a.confirm(*yes, "Remove "+rest[0]+" and all that is stored of them?"); err != nil {
		return err
	}
	return hinted(a.Post(ctx, "/v1/user/delete", admin.Query{User: rest[0]}, nil))
}

const aboutForget = `
Removes a user as ` + "`user delete`" + ` does, which may wait for 30 days until rooms kept elsewhere have seen them go, but now: hubs that cannot be
reached have a minute; then all that is stored is erased all the same, and others may see the user in their rooms for ever. It also
ends the waiting of a removal that has begun. It waits until it is done.`

func cmdUserForget(ctx context.Context, e *env, args []string) error {
	a := ask(e, "user forget", aboutForget)
	yes := a.fs.Bool("yes", false, "do not ask")
	rest, err := a.parse(args, 1, 1)
	if err != nil {
		return err
	}
	if err := a.confirm(*yes, "Erase "+rest[0]+" and all that is stored of them?"); err != nil {
		return err
	}
	if err := a.Post(ctx, "/v1/user/forget", admin.Query{User: rest[0]}, nil); err != nil {
		return hinted(err)
	}
	progress(e)("leaving rooms")
	for {
		var v admin.UserView
		if err := a.Get(ctx, "/v1/user", url.Values{"user": rest}, &v); err != nil && ctx.Err() == nil {
			return hinted(err)
		}
		if ctx.Err() == nil && !v.Deleting {
			return nil
		}
		if err := pause(ctx, time.Second/2); err != nil {
			return errorWithHint(err, "it goes on in the background")
		}
	}
}

// pause waits, or fails if ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return errors.New("interrupted")
	case <-time.After(d):
		return nil
	}
}

// confirm asks before something that cannot be undone.
func (a *asker) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !a.e.terminal {
		return errorWithHint(errors.New("this cannot be undone"), "-yes says that it is meant")
	}
	fmt.Fprintf(a.e.out, "%s This cannot be undone. Write yes: ", question)
	var word string
	if _, _ = fmt.Fscanln(a.e.in, &word); word != "yes" {
		return errors.New("nothing was done")
	}
	return nil
}

func cmdRoomDestroy(ctx context.Context, e *env, args []string) error {
	a := ask(e, "room destroy", "Closes a room that is kept here, for all who are in it, and for good.")
	yes := a.fs.Bool("yes", false, "do not ask")
	rest, err := a.parse(args, 1, 1)
	if err != nil {
		return err
	}
	if err := a.confirm(*yes, "Close "+rest[0]+" for everybody?"); err != nil {
		return err
	}
	return hinted(a.Post(ctx, "/v1/room/destroy", admin.Query{Room: rest[0]}, nil))
}

var cmdReportList = lister("report list", "Lists reports of abuse in rooms kept here, the newest first. -json has the messages, too.", "/v1/reports", func(w io.Writer, list []admin.Report) {
	var rows [][]string
	for _, r := range list {
		rows = append(rows, []string{r.ID[:min(12, len(r.ID))], r.Time.Format(time.DateTime), r.Abuser, fmt.Sprint(len(r.Messages)), r.Peer, r.Room})
	}
	table(w, "ID TIME ABOUT MESSAGES FROM ROOM", rows)
})

// report finds a report by its id or the beginning of it.
func (a *asker) report(ctx context.Context, id string) (admin.Report, error) {
	var list []admin.Report
	if err := a.Get(ctx, "/v1/reports", nil, &list); err != nil {
		return admin.Report{}, hinted(err)
	}
	var found []admin.Report
	for _, r := range list {
		if strings.HasPrefix(r.ID, id) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return admin.Report{}, fmt.Errorf("%w: there is no report %s", errNotFound, id)
	case 1:
		return found[0], nil
	}
	return admin.Report{}, fmt.Errorf("%d reports begin with %s", len(found), id)
}

func cmdReportShow(ctx context.Context, e *env, args []string) error {
	a := ask(e, "report show", "Prints a report: an id of `report list`. That the messages were sent by whom they name is proven; what the reporter says is not.")
	rest, err := a.parse(args, 1, 1)
	if err != nil {
		return err
	}
	r, err := a.report(ctx, rest[0])
	if err != nil {
		return err
	}
	a.print(r, func() {
		fmt.Fprintf(e.out, "report  %s\ntime    %s\nroom    %s\nabout   %s\nfrom    %s, %s\nnote    %s\n", r.ID, r.Time.Format(time.DateTime), r.Room, r.Abuser, r.Peer, r.Reporter, r.Note)
		for _, m := range r.Messages {
			fmt.Fprintf(e.out, "\n%s  %s\n%s\n", m.Time.Format(time.DateTime), m.ID, m.Text)
		}
	})
	return nil
}

func cmdReportDrop(ctx context.Context, e *env, args []string) error {
	a := ask(e, "report drop", "Forgets a report that has been dealt with: an id of `report list`.")
	rest, err := a.parse(args, 1, 1)
	if err != nil {
		return err
	}
	r, err := a.report(ctx, rest[0])
	if err != nil {
		return err
	}
	return hinted(a.Post(ctx, "/v1/report/drop", admin.Query{Target: r.ID}, nil))
}

var cmdQueueList = lister("queue list", "Lists what waits: for followers (kind peer), for rooms to carry out what users want (intent), for adapters to show it (event), to be\nprocessed (inbox).", "/v1/queues", func(w io.Writer, list []core.Queue) {
	var rows [][]string
	for _, q := range list {
		rows = append(rows, []string{q.Kind, q.Target, fmt.Sprint(q.N), ago(q.Oldest), q.Room})
	}
	table(w, "KIND FOR ENTRIES OLDEST ROOM", rows)
})

const aboutDrop = `
mimibridge queue drop peer|event TARGET ROOM gives up what waits for a follower (its domain) or an adapter (its name) in one
room. The follower misses these messages; if there were commits among them it enters the room anew.`

func cmdQueueDrop(ctx context.Context, e *env, args []string) error {
	a := ask(e, "queue drop", aboutDrop)
	rest, err := a.parse(args, 3, 3)
	if err != nil {
		return err
	}
	return hinted(a.Post(ctx, "/v1/queue/drop", admin.Query{Kind: rest[0], Target: rest[1], Room: rest[2]}, nil))
}

const aboutDirectory = `
Prints the directory document, made from the configuration; no daemon needs to run. A web server may serve it as a static file at
https://DOMAIN/.well-known/mimi-protocol-directory, with the type application/json, while the endpoints are on a port of their own.`

func cmdDirectory(_ context.Context, e *env, args []string) error {
	fs := flags(e, "directory", aboutDirectory)
	path := configFlag(fs)
	if err := parse(fs, args); err != nil {
		return err
	}
	c, err := config.Load(*path)
	if err != nil {
		return err
	}
	_, err = e.out.Write(directoryOf(c))
	return err
}

func cmdConfigShow(ctx context.Context, e *env, args []string) error {
	fs := flags(e, "config show", "Prints what is in force and where each value comes from; secrets are hidden. -running asks the daemon, which may not have read\nthe file again.")
	path := configFlag(fs)
	asJSON := fs.Bool("json", false, "print JSON, for scripts")
	running := fs.Bool("running", false, "ask the running daemon")
	if err := parse(fs, args); err != nil {
		return err
	}
	c, err := config.Load(*path)
	if err != nil {
		return err
	}
	list := c.Settings()
	if *running {
		list = nil
		if err := admin.NewClient(c.Admin.Socket).Get(ctx, "/v1/config", nil, &list); err != nil {
			return hinted(err)
		}
	}
	(&asker{e: e, json: asJSON}).print(list, func() {
		var rows [][]string
		for _, s := range list {
			rows = append(rows, []string{s.Key, fmt.Sprint(s.Value), s.Origin})
		}
		table(e.out, "KEY VALUE FROM", rows)
	})
	return nil
}

func cmdConfigSchema(_ context.Context, e *env, args []string) error {
	if err := parse(flags(e, "config schema", "Prints a JSON schema of the configuration file. An editor with the YAML language server takes it by the line\n# yaml-language-server: $schema=config.schema.json"), args); err != nil {
		return err
	}
	b, err := config.Schema()
	if err != nil {
		return err
	}
	_, err = e.out.Write(b)
	return err
}

func cmdConfigReload(ctx context.Context, e *env, args []string) error {
	a := ask(e, "config reload", "Has the running daemon read its configuration again, as SIGHUP does, and says what changed and what needs a restart.")
	if _, err := a.parse(args, 0, 0); err != nil {
		return err
	}
	var v struct {
		Changed []string `json:"changed"`
		Restart []string `json:"restart"`
	}
	if err := a.Post(ctx, "/v1/reload", admin.Query{}, &v); err != nil {
		return hinted(err)
	}
	a.print(v, func() {
		for _, k := range v.Changed {
			fmt.Fprintf(e.out, "in force now     %s\n", k)
		}
		for _, k := range v.Restart {
			fmt.Fprintf(e.out, "needs a restart  %s\n", k)
		}
		if len(v.Changed)+len(v.Restart) == 0 {
			fmt.Fprintln(e.out, "nothing has changed; certificates are read again")
		}
	})
	return nil
}
