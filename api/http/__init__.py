"""What HTTP needs: bodies, strict input, errors, idempotency keys, OpenAPI."""
