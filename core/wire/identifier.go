package wire

import (
	"unicode/utf8"

	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// SearchType says what of a user a QueryElement is about, and where a ProfileField comes from.
type SearchType uint8

// Search types (section "Find internal address"). Only the last two are sources of a ProfileField.
const (
	SearchHandle       SearchType = 1 // the whole URI, exactly
	SearchNick         SearchType = 2 // the user part or nickname, exactly
	SearchEmail        SearchType = 3
	SearchPhone        SearchType = 4 // international form with +
	SearchPartialName  SearchType = 5 // a part of any name, in any case
	SearchWholeProfile SearchType = 6 // a part of any searchable field
	SearchOIDCClaim    SearchType = 7 // a claim of OpenID Connect, exactly
	SearchVCardField   SearchType = 8 // a vCard property, exactly
)

var searchTypeNames = []string{"", "handle", "nick", "email", "phone", "partialName", "wholeProfile", "oidcStdClaim", "vcardField"}

func (t SearchType) String() string { return name("SearchIdentifierType", searchTypeNames, uint8(t)) }

func (t SearchType) named() bool { return t == SearchOIDCClaim || t == SearchVCardField }

// QueryElement is one condition; all of a request have to match.
type QueryElement struct {
	Type  SearchType
	Name  string // of the claim or property, with these types only
	Value string
}

// IdentifierRequest is the body of an identifierQuery.
type IdentifierRequest struct {
	Elements   []QueryElement
	Extensions mls.AppDataDictionary
}

// Marshal gives the encoding.
func (q *IdentifierRequest) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		w.Vector(func(w *tlspl.Writer) {
			for _, e := range q.Elements {
				w.Uint8(uint8(e.Type))
				if e.Type.named() {
					w.String(e.Name)
				}
				w.String(e.Value)
			}
		})
		q.Extensions.MarshalTLS(w)
	})
}

// ParseIdentifierRequest reads the body of an identifierQuery; there is at least one element.
func ParseIdentifierRequest(b []byte) (*IdentifierRequest, error) {
	q := new(IdentifierRequest)
	err := parse("IdentifierRequest", MaxRequest, b, func(r *tlspl.Reader) {
		r.Vector(func(r *tlspl.Reader) {
			readCount(r, len(q.Elements), MaxElements, "query elements")
			e := QueryElement{Type: SearchType(r.Uint8())}
			if r.Err() == nil && (e.Type < SearchHandle || e.Type > SearchVCardField) {
				r.Failf("search type %d", uint8(e.Type)) // it may have a name or not
			}
			if e.Type.named() {
				e.Name = readText(r)
			}
			e.Value = readText(r)
			q.Elements = append(q.Elements, e)
		})
		if len(q.Elements) == 0 {
			r.Failf("no query element")
		}
		q.Extensions.UnmarshalTLS(r)
	})
	if err != nil {
		return nil, err
	}
	return q, nil
}

// IdentifierQueryCode says how a query went.
type IdentifierQueryCode uint8

// Codes of an IdentifierResponse.
const (
	IdentifierSuccess          IdentifierQueryCode = 0
	IdentifierNotFound         IdentifierQueryCode = 1
	IdentifierAmbiguous        IdentifierQueryCode = 2
	IdentifierForbidden        IdentifierQueryCode = 3
	IdentifierUnsupportedField IdentifierQueryCode = 4
)

var identifierCodeNames = []string{"success", "notFound", "ambiguous", "forbidden", "unsupportedField"}

func (c IdentifierQueryCode) String() string {
	return name("IdentifierQueryCode", identifierCodeNames, uint8(c))
}

// ProfileField is one thing that a user lets others know.
type ProfileField struct {
	Source SearchType // SearchOIDCClaim or SearchVCardField
	Name   string
	Value  string
}

// UserProfile is a user that a query has found.
type UserProfile struct {
	User   mimiuri.URI // stableUri
	Fields []ProfileField
}

// IdentifierResponse answers an identifierQuery. The draft has the users twice, as URIs and as profiles.
type IdentifierResponse struct {
	Code       IdentifierQueryCode
	Users      []mimiuri.URI
	Profiles   []UserProfile
	Extensions mls.AppDataDictionary
}

// Marshal gives the encoding.
func (a *IdentifierResponse) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		w.Uint8(uint8(a.Code))
		w.Vector(func(w *tlspl.Writer) {
			for _, u := range a.Users {
				writeURI(w, u)
			}
		})
		w.Vector(func(w *tlspl.Writer) {
			for _, p := range a.Profiles {
				writeURI(w, p.User)
				w.Vector(func(w *tlspl.Writer) {
					for _, f := range p.Fields {
						w.Uint8(uint8(f.Source))
						w.String(f.Name)
						w.String(f.Value)
					}
				})
			}
		})
		a.Extensions.MarshalTLS(w)
	})
}

// ParseIdentifierResponse reads the answer to an identifierQuery.
func ParseIdentifierResponse(b []byte) (*IdentifierResponse, error) {
	a := new(IdentifierResponse)
	err := parse("IdentifierResponse", MaxResponse, b, func(r *tlspl.Reader) {
		a.Code = IdentifierQueryCode(r.Uint8())
		r.Vector(func(r *tlspl.Reader) {
			readCount(r, len(a.Users), MaxProfiles, "users")
			a.Users = append(a.Users, readURI(r, mimiuri.User, false))
		})
		r.Vector(func(r *tlspl.Reader) {
			readCount(r, len(a.Profiles), MaxProfiles, "profiles")
			p := UserProfile{User: readURI(r, mimiuri.User, false)}
			r.Vector(func(r *tlspl.Reader) {
				readCount(r, len(p.Fields), MaxFields, "fields of a profile")
				p.Fields = append(p.Fields, ProfileField{Source: SearchType(r.Uint8()), Name: readText(r), Value: readText(r)})
			})
			a.Profiles = append(a.Profiles, p)
		})
		a.Extensions.UnmarshalTLS(r)
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// readText reads a string, which must be UTF-8.
func readText(r *tlspl.Reader) string {
	s := r.String()
	if r.Err() == nil && !utf8.ValidString(s) {
		r.Failf("text that is not UTF-8")
	}
	return s
}
