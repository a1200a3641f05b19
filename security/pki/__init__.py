"""X.509: requests, the two authorities that answer them, and the verification of what a peer shows (SPEC 4)."""
