"""What a process runs: the capture runner, its leases, embedded parts, health."""
