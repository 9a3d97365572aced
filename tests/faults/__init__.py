"""Faults made for real, and an audit of what clients were told afterwards. `make test-faults` prints the table."""
