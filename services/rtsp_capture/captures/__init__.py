"""Captures: one per claimed request, with its mode, its slots, its control and its state."""
