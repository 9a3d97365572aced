"""Frames that cannot be stored now, on disk until they can be."""
