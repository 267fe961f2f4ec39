"""Exit codes of both programs (CONTRACT 1). An unknown code means failure."""

DONE = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
NOT_PERMITTED = 4
NOT_FOUND = 5
WRONG_STATE = 6
NOT_CONFIRMED = 7
DEGRADED = 10
FAILING = 11
INTERNAL = 70
STORAGE = 74
LOCKED = 75
CONFIG = 78
INTERRUPTED = 130

MEANING = {
    DONE: "done",
    FAILED: "failed or refused",
    USAGE: "usage",
    UNREACHABLE: "the daemon, or the link that the command needs, is not reachable",
    NOT_PERMITTED: "not permitted",
    NOT_FOUND: "not found, or ambiguous",
    WRONG_STATE: "refused in this state",
    NOT_CONFIRMED: "sent but not confirmed in time",
    DEGRADED: "degraded (only with --check, and doctor)",
    FAILING: "failing (only with --check, and doctor)",
    INTERNAL: "internal error",
    STORAGE: "storage",
    LOCKED: "another instance holds the state",
    CONFIG: "configuration",
    INTERRUPTED: "interrupted",
}
