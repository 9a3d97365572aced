"""Leaves that every layer may use and that use none: logging, exceptions, metrics, ids, URLs, embedded parts."""
