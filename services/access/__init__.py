"""Who may do what: credentials, sessions, limits, shares, the audit. Knows nothing of HTTP."""
