"""What WebSockets are told as it happens: events from a cursor, and the progress of requests."""
