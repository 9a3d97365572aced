"""Rows of access control: keys, browser sessions, the audit."""
