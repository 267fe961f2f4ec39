"""The one table of error codes: HTTP status, exit code, whether a retry can help, and a sentence."""

from typing import NamedTuple

from ambientd.wire import exits


class ErrorCode(NamedTuple):
    """One row of the table.

    `retryable` tells a client that the same request may succeed later without any change to it.
    """

    code: str
    status: int
    exit: int
    retryable: bool
    sentence: str


_ROWS = (
    ErrorCode(
        "VALIDATION_ERROR", 400, exits.FAILED, False, "The request is not valid; `details` names every field."
    ),
    ErrorCode(
        "BAD_REQUEST", 400, exits.FAILED, False, "The bytes received are not a well-formed HTTP request."
    ),
    ErrorCode("NOT_AUTHORIZED", 403, exits.NOT_PERMITTED, False, "This user may not do that on this node."),
    ErrorCode("NOT_AUTHENTICATED", 401, exits.NOT_PERMITTED, False, "No valid credentials came with it."),
    ErrorCode("CONFLICT", 409, exits.WRONG_STATE, False, "Contradicts what is there; nothing was written."),
    ErrorCode(
        "QUOTA_EXCEEDED", 409, exits.WRONG_STATE, False, "The account has as many of these as it may have."
    ),
    ErrorCode("NO_NODE_FREE", 503, exits.UNREACHABLE, True, "No node can take it just now; it waits."),
    ErrorCode("REPLAYED", 409, exits.WRONG_STATE, False, "A request with this number was taken before."),
    ErrorCode("NOT_FOUND", 404, exits.NOT_FOUND, False, "Nothing has that id or path."),
    ErrorCode("AMBIGUOUS", 409, exits.NOT_FOUND, False, "The id fits more than one; `details` lists them."),
    ErrorCode("METHOD_NOT_ALLOWED", 405, exits.FAILED, False, "The path exists, the method does not."),
    ErrorCode("NOT_ACCEPTABLE", 406, exits.FAILED, False, "None of the accepted media types can be made."),
    ErrorCode("REQUEST_TIMEOUT", 408, exits.FAILED, True, "The request did not arrive in time."),
    ErrorCode("NOTHING_RUNS", 409, exits.WRONG_STATE, False, "The session has already ended."),
    ErrorCode("RETENTION_RUNS", 409, exits.WRONG_STATE, False, "Retention already runs; one runs at a time."),
    ErrorCode(
        "PLAN_UNKNOWN", 409, exits.WRONG_STATE, False, "The plan is older than an hour, or settings changed."
    ),
    ErrorCode("CONFIG_REFUSED", 409, exits.CONFIG, False, "The files hold mistakes; nothing was changed."),
    ErrorCode("POLICIES_READ_ONLY", 409, exits.WRONG_STATE, False, "Policies are only changed while online."),
    ErrorCode("ALERT_NOT_ACTIVE", 409, exits.WRONG_STATE, False, "The alert is not active; nothing to see."),
    ErrorCode("PEERS_OFF", 409, exits.WRONG_STATE, False, "This node has no peers; see `peers.listen`."),
    ErrorCode(
        "PEER_CONFIGURED", 409, exits.WRONG_STATE, False, "The key is trusted by the configuration itself."
    ),
    ErrorCode("ALREADY_JOINED", 409, exits.WRONG_STATE, False, "This node belongs to another control plane."),
    ErrorCode("JOIN_REFUSED", 403, exits.NOT_PERMITTED, False, "The control plane does not let it join."),
    ErrorCode("CONTROL_UNREACHABLE", 503, exits.UNREACHABLE, True, "The control plane did not answer."),
    ErrorCode("NO_CONTROL_PLANE", 409, exits.WRONG_STATE, False, "This node belongs to no control plane."),
    ErrorCode(
        "IDENTITY_REFUSED", 409, exits.WRONG_STATE, False, "The node's key cannot be used or changed so."
    ),
    ErrorCode("LEASE_REFUSED", 403, exits.FAILED, False, "The lease does not hold here; `details` says why."),
    ErrorCode("LEASE_OVER", 409, exits.WRONG_STATE, False, "The lease was used, has ended or was revoked."),
    ErrorCode("LINKS_REFUSE", 409, exits.WRONG_STATE, False, "The state of the links does not allow it now."),
    ErrorCode("CLOCK_IN_DOUBT", 409, exits.WRONG_STATE, False, "The clock is in doubt: ambientctl clock."),
    ErrorCode("CLOCK_IMPOSSIBLE", 409, exits.WRONG_STATE, False, "The wall clock was never set; set it."),
    ErrorCode("LENGTH_REQUIRED", 411, exits.FAILED, False, "A body needs a Content-Length."),
    ErrorCode("PAYLOAD_TOO_LARGE", 413, exits.FAILED, False, "The body is larger than this route takes."),
    ErrorCode("URI_TOO_LONG", 414, exits.FAILED, False, "The request line is too long."),
    ErrorCode(
        "UNSUPPORTED_MEDIA_TYPE", 415, exits.FAILED, False, "Bodies are application/json, not encoded."
    ),
    ErrorCode("HEADERS_TOO_LARGE", 431, exits.FAILED, False, "The header block is too large."),
    ErrorCode("TOO_MANY_REQUESTS", 429, exits.FAILED, True, "Too many at once; try again shortly."),
    ErrorCode(
        "TOO_MANY_CONNECTIONS", 503, exits.UNREACHABLE, True, "All connections are taken; try again shortly."
    ),
    ErrorCode(
        "INTERNAL_ERROR", 500, exits.INTERNAL, False, "A fault in this program; the log has the request id."
    ),
    ErrorCode("NOT_IMPLEMENTED", 501, exits.FAILED, False, "Known, and not done here; the message says why."),
    ErrorCode("NOT_READY", 503, exits.STORAGE, True, "The node is up but not ready; the message says why."),
    ErrorCode("STORAGE_FULL", 503, exits.STORAGE, True, "The disk is full; nothing was acknowledged."),
    ErrorCode("STORAGE_UNAVAILABLE", 503, exits.STORAGE, True, "The database cannot be written just now."),
    ErrorCode(
        "RUNNER_UNAVAILABLE", 503, exits.UNREACHABLE, True, "The session's runner did not answer in time."
    ),
    ErrorCode(
        "GATEWAY_UNAVAILABLE", 503, exits.UNREACHABLE, True, "The gateway is away, or did not answer in time."
    ),
    ErrorCode("GATEWAY_REFUSED", 422, exits.FAILED, False, "The gateway refused it; the message says why."),
    ErrorCode(
        "UNSUPPORTED_CONTRACT_VERSION",
        422,
        exits.FAILED,
        False,
        "The envelope's version is not supported by this node.",
    ),
    ErrorCode(
        "IDEMPOTENCY_CONFLICT", 409, exits.WRONG_STATE, False, "Contradicts the record; nothing was written."
    ),
    ErrorCode(
        "INGEST_NOT_AUTHORIZED", 401, exits.NOT_PERMITTED, False, "This caller may not hand in sessions here."
    ),
    ErrorCode(
        "INGEST_INTERNAL_ERROR", 500, exits.INTERNAL, False, "A fault of the intake; the log has the request."
    ),
)

ERRORS: dict[str, ErrorCode] = {row.code: row for row in _ROWS}
