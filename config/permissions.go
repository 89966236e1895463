package config

import (
	"fmt"
	"strings"
)

// Level is what a person may do with a provider.
type Level uint8

const (
	None  Level = iota // nothing
	User               // rooms and messages
	Admin              // the provider's administration as well
)

var levelNames = [...]string{"none", "user", "admin"}

func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return "none"
}

// ParseLevel reads none, user or admin.
func ParseLevel(s string) (Level, error) {
	for i, name := range levelNames {
		if s == name {
			return Level(i), nil
		}
	}
	return None, fmt.Errorf("%q is none of none, user and admin", s)
}

// Permissions maps a network id, a domain or "*" to the name of a level.
type Permissions map[string]string

// Level returns the level of the person with this network id: a bare JID or a Matrix ID. The rule for the id
// goes before the rule for its domain, and that before "*". Without any the level is None.
func (p Permissions) Level(networkID string) Level {
	for _, key := range []string{foldID(networkID), idDomain(networkID), "*"} {
		if name, ok := p[key]; ok && key != "" {
			level, err := ParseLevel(name)
			if err != nil {
				return None
			}
			return level
		}
	}
	return None
}

// idDomain is the domain of a bare JID or a Matrix ID, lower-case, "" if there is none.
func idDomain(id string) string {
	var ok bool
	if strings.HasPrefix(id, "@") {
		_, id, ok = strings.Cut(id, ":")
	} else {
		_, id, ok = strings.Cut(id, "@")
		id, _, _ = strings.Cut(id, "/")
	}
	if !ok {
		return ""
	}
	return strings.ToLower(id)
}

// foldID brings a key of the map, or an id, into the form in which they are compared. The local part of a JID
// does not distinguish case; that of an old Matrix ID does.
func foldID(id string) string {
	if local, domain, ok := strings.Cut(id, ":"); ok && strings.HasPrefix(id, "@") {
		return local + ":" + strings.ToLower(domain)
	}
	id, _, _ = strings.Cut(id, "/")
	return strings.ToLower(id)
}
