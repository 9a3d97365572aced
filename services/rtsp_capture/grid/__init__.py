"""The grid: which picture fills which slot. Pure."""
