"""What a request has to be before it is accepted: the row of a capture, a checked upload, a trigger of a running capture."""
