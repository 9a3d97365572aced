"""What the service does: orchestrator, RTSP capture, uploads, object storage, reads, health."""
