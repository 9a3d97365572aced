"""Cameras for tests and the demo: films, a real RTSP server in its own process, and a proxy that breaks it."""
