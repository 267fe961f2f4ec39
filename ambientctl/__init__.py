"""The command line; of the daemon's package it imports `ambientd.wire` only."""
