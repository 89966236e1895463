package policy

type change struct{}
