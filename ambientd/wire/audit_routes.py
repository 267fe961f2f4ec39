"""Paths, schemas and limits of the audit chain and the node's identity, for both sides."""

AUDIT = "/api/v1/node/audit"
AUDIT_VERIFY = AUDIT + "/verify"
AUDIT_EXPORT = AUDIT + "/export"
AUDIT_ACCEPT = AUDIT + "/accept"
IDENTITY = "/api/v1/node/identity"
IDENTITY_KEEP = IDENTITY + "/keep"
IDENTITY_RENEW = IDENTITY + "/renew"

SCHEMA_AUDIT = "ambient.audit/1"
SCHEMA_AUDIT_VERIFY = "ambient.audit-verify/1"
SCHEMA_AUDIT_EXPORT = "ambient.audit-export/1"
SCHEMA_AUDIT_ACCEPT = "ambient.audit-accept/1"
SCHEMA_IDENTITY = "ambient.identity/1"

PAGE_MAX = 1_000
# Records of one stretch of a verification: some tenths of a second of one thread.
STRETCH_MAX = 5_000
