"""Rows of access control: keys, browser sessions, tickets, the audit."""
