"""HTTP only: endpoints by resource, strict input, error mapping, middleware. Knows services, never repositories."""
