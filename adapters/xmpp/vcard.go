package xmpp

// avatarHash gives the hash under which an avatar was shown, "" if it has not been fetched.
func (s *service) avatarHash(uri string) string { return "" }
