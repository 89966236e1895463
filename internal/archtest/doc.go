// Package archtest holds the rules about which package may import which. It has only tests.
package archtest
