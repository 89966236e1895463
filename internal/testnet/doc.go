// Package testnet starts real servers on 127.0.0.1 for tests and for the demo: XMPP servers, Matrix
// homeservers, clients of both, and whatever else is a program of its own.
//
// Each server gets free ports, a folder of its own and a log file, and a handle that stops it by its
// process id. Nothing outlives the program that started it: a process ends with its context, with its
// handle's Stop, and, on Linux, when the starter dies without a chance to clean up.
package testnet
