"""Streams: one connection a camera, shared by its captures, kept open and reconnected."""
