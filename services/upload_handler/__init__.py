"""Uploads: each file is checked whole, dated, and stored unchanged."""
