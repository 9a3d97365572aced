"""Captures: one per claimed request, its modes, its slots, what it is told and what it reports."""
