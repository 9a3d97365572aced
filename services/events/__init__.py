"""The event log: the relay that orders events, and the reads by cursor."""
