"""Pairs: two stored frames, before and after, how they lie on each other, and what changed."""
