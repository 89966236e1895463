package adapter_test

import (
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

func TestRoleOf(t *testing.T) {
	here, there, nowhere := mimiuri.MustParse("mimi://a.example/u/x"), mimiuri.MustParse("mimi://a.example/u/y"), mimiuri.MustParse("mimi://a.example/u/z")
	r := adapter.Room{
		Participants: []adapter.Participant{{User: here, Role: 2}, {User: there, Role: 7}},
		Roles:        []adapter.Role{{Index: 1, Name: "banned"}, {Index: 2, Name: "user", Capabilities: []policy.Capability{policy.CanSendMessage}}},
	}
	if role, ok := r.RoleOf(here); !ok || role.Name != "user" || !role.Can(policy.CanSendMessage) || role.Can(policy.CanBan) {
		t.Errorf("%+v, %v", role, ok)
	}
	for _, u := range []mimiuri.URI{there, nowhere} {
		if role, ok := r.RoleOf(u); ok {
			t.Errorf("%s has the role %+v", u, role)
		}
	}
}
