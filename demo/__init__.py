"""Cameras for tests and the demo: films, a real RTSP server, and a proxy that breaks it."""
