"""Rows and findings as the wire shows them; one module a resource. Pure functions."""
