"""RTSP, RTP and RTCP without any I/O: bytes in, events out. Whatever bytes come in, only `ProtocolError` comes out."""
