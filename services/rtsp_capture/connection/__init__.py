"""Connections: where a camera may be, the check, and the readers that hand over packets."""
