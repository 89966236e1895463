package mls

import (
	"errors"
	"fmt"
	"strings"
)

// RuleError is a rule of RFC 9420 (or of draft-ietf-mls-extensions, where
// Section says so) that something received or asked for breaks. The package's
// rules are variables of this type; tell them apart with errors.Is, or take the
// section with errors.As.
type RuleError struct {
	Section string // such as "12.2"
	Rule    string // in a few words
}

func (e *RuleError) Error() string {
	if strings.HasPrefix(e.Section, "draft-") {
		return fmt.Sprintf("%s (%s)", e.Rule, e.Section)
	}
	return fmt.Sprintf("%s (RFC 9420 section %s)", e.Rule, e.Section)
}

func rule(section, text string) *RuleError { return &RuleError{section, text} }

// Rules on messages.
var (
	ErrSignature       = rule("5.1.2", "signature does not verify")
	ErrMembershipTag   = rule("6.2", "membership tag does not verify")
	ErrConfirmationTag = rule("6.1", "confirmation tag does not verify")
	ErrContentType     = rule("6", "content type not allowed here")
	ErrSender          = rule("6.1", "sender not allowed here")
	ErrPadding         = rule("6.3.1", "padding is not zero")
	ErrWrongGroup      = rule("6", "message of another group")
	ErrWrongEpoch      = rule("12.1", "message of another epoch")
	ErrSafeAAD         = rule("draft-ietf-mls-extensions: Safe AAD", "authenticated data is not framed as SafeAAD")
)

// Rules on leaves, trees and key packages.
var (
	ErrCredential          = rule("5.3.1", "credential is not valid")
	ErrCapabilities        = rule("7.2", "capability missing")
	ErrLeafSignature       = rule("7.3", "leaf node signature does not verify")
	ErrLifetime            = rule("7.3", "leaf node not within its lifetime")
	ErrExtensionUnlisted   = rule("7.3", "extension is not listed in the capabilities")
	ErrCredentialType      = rule("7.3", "credential type not supported by all members")
	ErrLeafSource          = rule("7.3", "leaf node source not allowed here")
	ErrEncryptionKeyReused = rule("7.3", "encryption key is not a new one")
	ErrDuplicateKey        = rule("7.3", "key already in the group")
	ErrPublicKey           = rule("5.1.1", "public key malformed")
	ErrPath                = rule("7.5", "update path does not fit the tree")
	ErrPathSecret          = rule("7.5", "path secret does not give the public key")
	ErrParentHash          = rule("7.9.2", "parent hash not valid")
	ErrTreeHash            = rule("7.8", "tree hash differs")
	ErrTree                = rule("12.4.3.1", "ratchet tree malformed")
	ErrKeyPackageSuite     = rule("10.1", "key package is of another version or suite")
	ErrKeyPackageSignature = rule("10.1", "key package signature does not verify")
	ErrInitKey             = rule("10.1", "init key is the encryption key")
)

// Rules on proposals and commits.
var (
	ErrProposalType         = rule("12.1", "proposal type unknown")
	ErrProposalSender       = rule("12.1.8", "proposal type not allowed for this sender")
	ErrProposalUnsupported  = rule("12.2", "proposal type not supported by all members")
	ErrUpdateByCommitter    = rule("12.2", "update by the committer")
	ErrRemoveCommitter      = rule("12.2", "removal of the committer")
	ErrConflictingProposals = rule("12.2", "several updates or removals of one leaf")
	ErrDuplicateAdd         = rule("12.2", "several additions of one client")
	ErrAlreadyMember        = rule("12.2", "addition of a client already in the group")
	ErrDuplicatePSK         = rule("12.2", "several uses of one PSK")
	ErrMultipleGCE          = rule("12.2", "several GroupContextExtensions")
	ErrReInitNotAlone       = rule("12.2", "ReInit together with other proposals")
	ErrExternalInitInside   = rule("12.2", "ExternalInit outside an external commit")
	ErrExternalCommit       = rule("12.2", "proposal not allowed in an external commit")
	ErrExternalInitCount    = rule("12.2", "external commit without exactly one ExternalInit")
	ErrExternalRemoves      = rule("12.2", "external commit with more than one Remove")
	ErrExternalByRef        = rule("12.4.3.2", "external commit with a reference to other than a SelfRemove")
	ErrRemoveBlank          = rule("12.1.3", "removal of a blank leaf")
	ErrPSKUsage             = rule("12.1.4", "PSK usage not allowed here")
	ErrPSKNonce             = rule("12.1.4", "PSK nonce of the wrong length")
	ErrReInitVersion        = rule("12.1.5", "ReInit to a lower version")
	ErrPathRequired         = rule("12.4", "commit without a path that needs one")
	ErrPathKeyReused        = rule("12.4.2", "public key of the path already in the tree")
	ErrSelfRemoveSender     = rule("draft-ietf-mls-extensions: SelfRemove", "SelfRemove not by a member in a PublicMessage")
	ErrSelfRemoveByValue    = rule("draft-ietf-mls-extensions: SelfRemove", "SelfRemove not by reference")
	ErrSelfRemoveTwice      = rule("draft-ietf-mls-extensions: SelfRemove", "second SelfRemove of an epoch")
	ErrAppDataConflict      = rule("draft-ietf-mls-extensions: AppDataUpdate", "update and remove, or several removes, of one component")
	ErrAppDataAbsent        = rule("draft-ietf-mls-extensions: AppDataUpdate", "removal of a component without state")
	ErrAppDataInvalid       = rule("draft-ietf-mls-extensions: AppDataUpdate", "the application refuses the update")
	ErrAppDataGCE           = rule("draft-ietf-mls-extensions: AppDataUpdate", "GroupContextExtensions changes app_data_dictionary")
	ErrWelcomeNotForUs      = rule("12.4.3.1", "no key package of ours in the Welcome")
	ErrWelcomePSK           = rule("12.4.3.1", "PSKs of the Welcome not allowed")
	ErrGroupInfoSigner      = rule("12.4.3.1", "GroupInfo signature does not verify")
	ErrGroupInfoDiffers     = rule("12.4.3", "GroupInfo is not of this group and epoch")
	ErrGroupKnown           = rule("12.4.3", "group ID is of a group the client is in")
	ErrNoExternalPub        = rule("12.4.3.2", "GroupInfo without external_pub")
	ErrReInitialised        = rule("12.4.2", "the group is closed by a ReInit")
	ErrNotReInitialised     = rule("11.2", "the last commit of the old group has no ReInit")
	ErrSuccessorGroup       = rule("11.2, 11.3", "group does not match the one it follows")
	ErrSuccessorMembers     = rule("11.2, 11.3", "members do not match those of the old group")
	ErrRequiredCapabilities = rule("12.1.7", "required capabilities not supported by all members")
	ErrWireFormat           = rule("draft-ietf-mls-extensions: Negotiating", "required wire format not supported, or not for this group")
	ErrComponent            = rule("draft-ietf-mls-extensions: Negotiating", "required component or media type not supported")
	ErrPartialContext       = rule("draft-mahy-mls-semiprivatemessage: Decryption", "partial context hash differs")
	ErrFramedContentHash    = rule("draft-mahy-mls-semiprivatemessage: Decryption", "hash of the FramedContentTBS differs")
	ErrUnsupportedGCE       = rule("7.2", "GroupContext extension not supported by all members")
)

// Errors of using this package.
var (
	ErrCipherSuite    = errors.New("cipher suite not supported")
	ErrSignatureKey   = errors.New("signature key missing or of another suite")
	ErrDuplicate      = errors.New("proposal already received")
	ErrDecrypt        = errors.New("message cannot be decrypted")
	ErrReplay         = errors.New("generation used already")
	ErrForward        = errors.New("generation too far ahead")
	ErrEpochTooOld    = errors.New("epoch no longer held")
	ErrFutureEpoch    = errors.New("epoch still to come")
	ErrOwnMessage     = errors.New("message by a local leaf")
	ErrNotLocal       = errors.New("leaf is not local")
	ErrPendingCommit  = errors.New("a commit is pending already")
	ErrNoPending      = errors.New("no commit is pending")
	ErrStale          = errors.New("staged commit is not of this group's epoch")
	ErrPSKUnknown     = errors.New("PSK not known")
	ErrNoPathKey      = errors.New("no local leaf can decrypt the path")
	ErrLeafDeparting  = errors.New("leaf has a pending Remove or SelfRemove")
	ErrSecretConsumed = errors.New("exported secret was given out already")
	ErrNotReceiver    = errors.New("message is not for this external receiver")
	ErrState          = errors.New("stored state malformed")
)

// UnknownProposalError: a Commit refers to proposals that were not received.
type UnknownProposalError struct{ Refs []ProposalRef }

func (e *UnknownProposalError) Error() string {
	return fmt.Sprintf("%d referenced proposals are not known", len(e.Refs))
}

func wrapf(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("mls: "+format+": %w", append(args, err)...)
}
