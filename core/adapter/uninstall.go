package adapter

import "context"

// Uninstaller is what an Adapter also implements if it leaves traces on its network: users, rooms, aliases, state.
type Uninstaller interface {
	// Uninstall takes back what the adapter has put on its network: it tells the people in its rooms, takes all users of other
	// providers out of them, and removes their names, aliases and state. Each step is told to progress as a sentence without a
	// full stop, before it is taken; with dryRun nothing is changed and progress tells all that would be. What the network
	// refuses for good is told to progress and passed over. An error is fault.Temporary if calling it again can help; called again,
	// also in a new process, it goes on where it was cut short. nil means that nothing is left.
	//
	// That local users leave their rooms, so that other providers are told, is the provider's business, which is done first.
	// Run has been called before and goes on. From the first call without dryRun on the adapter takes nothing from its network and
	// shows nothing: Deliver returns nil at once. progress is not called concurrently.
	Uninstall(ctx context.Context, dryRun bool, progress func(step string)) error
}
