//go:build live

package testnet

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestProsodyAndSlix(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ca, err := NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("xmpp", "xmpp.example")
	if err != nil {
		t.Fatal(err)
	}
	p, err := StartProsody(ctx, ProsodyOptions{Dir: t.TempDir(), Domain: "xmpp.example", MUC: "muc.xmpp.example",
		CertFile: cert, KeyFile: key, Plain: true, Components: []string{"mimi.xmpp.example"}, Secret: "s3cr3t",
		Users: map[string]string{"romeo": "pass romeo", "mercutio": "pass mercutio"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	t.Log("testtable: server " + p.Version)
	clients := map[string]*SlixClient{}
	for _, name := range []string{"romeo", "mercutio"} {
		authority := ""
		if name == "romeo" {
			authority = ca.File()
		}
		c, err := StartSlix(ctx, p.C2S, name+"@xmpp.example", "pass "+name, authority)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Stop()
		clients[name] = c
	}
	if _, err := StartSlix(ctx, p.C2S, "romeo@xmpp.example", "wrong", ""); err == nil || !strings.Contains(err.Error(), "not-authorized") {
		t.Errorf("wrong password: %v", err)
	}
	romeo, mercutio := clients["romeo"], clients["mercutio"]
	const room = "square@muc.xmpp.example"
	ev, err := romeo.Join(ctx, room, "romeo")
	if err != nil {
		t.Fatal(err)
	}
	if !ev.HasStatus(201) || ev.Item["affiliation"] != "owner" {
		t.Errorf("a new room: %+v", ev)
	}
	if err := romeo.Instant(ctx, room); err != nil {
		t.Fatal(err)
	}
	if err := romeo.Invite(ctx, room, "mercutio@xmpp.example", "come"); err != nil {
		t.Fatal(err)
	}
	if ev, err = mercutio.Wait(ctx, func(e SlixEvent) bool { return e.Invite != nil }); err != nil || ev.Invite.Reason != "come" {
		t.Fatalf("invitation %+v %v", ev.Invite, err)
	}
	if _, err := mercutio.Join(ctx, room, "mercutio"); err != nil {
		t.Fatal(err)
	}
	if err := romeo.Say(ctx, room, "Peace, peace, Mercutio, peace! <&>", "m1"); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		ev, err := c.WaitMessage(ctx, room, "Peace, peace, Mercutio, peace! <&>")
		if err != nil || ev.ID != "m1" || ev.OriginID != "m1" || ev.Nick() != "romeo" {
			t.Errorf("%+v %v", ev, err)
		}
	}
	var refused *ScriptError
	if _, err := romeo.Join(ctx, "x@nowhere.xmpp.example", "romeo"); !errors.As(err, &refused) {
		t.Errorf("join of a room that cannot be: %v", err)
	}
	if _, err := romeo.Command(ctx, "mimi.xmpp.example", "leave", nil); !errors.As(err, &refused) || refused.Code == "" {
		t.Errorf("a component that is not connected: %v", err)
	}
	p.Kill()
	if _, err := romeo.Wait(ctx, func(e SlixEvent) bool { return e.Kind == "disconnected" }); err != nil {
		t.Error(err)
	}
}
