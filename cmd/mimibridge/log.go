package main

import (
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/config"
)

// newLogger makes the logger the configuration asks for, on standard error. Times are UTC with milliseconds.
func newLogger(c config.Log) zerolog.Logger {
	zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000Z07:00"
	zerolog.TimestampFunc = func() time.Time { return time.Now().UTC() }
	setLevel(c.Level)
	if c.Format == "console" || c.Format == "auto" && isatty.IsTerminal(os.Stderr.Fd()) {
		return zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: "15:04:05.000"}).With().Timestamp().Logger()
	}
	return zerolog.New(os.Stderr).With().Timestamp().Logger()
}

// setLevel sets the level of all loggers, also while they are in use.
func setLevel(name string) {
	level, err := zerolog.ParseLevel(name)
	if err != nil {
		level = zerolog.InfoLevel // validated by package config
	}
	zerolog.SetGlobalLevel(level)
}
