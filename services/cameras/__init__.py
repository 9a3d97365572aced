"""Registered cameras: the registry, snapshots, bursts."""
