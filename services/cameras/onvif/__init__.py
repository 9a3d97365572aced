"""ONVIF as a client: finding devices (WS-Discovery), and what a device says of its streams (SOAP 1.2 over HTTP)."""
