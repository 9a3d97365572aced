"""The Redis (or Valkey) that the processes of a deployment may share, and how to do without it."""
