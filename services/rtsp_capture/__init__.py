"""Capture from RTSP cameras.

`hub` owns the streams, one RTSP connection each; `stream` keeps one open (check, read, back off, again); `reader`
hands over encoded packets from a thread of its own; `clock` gives each its capture time; `sampler` chooses the
picture of each slot; `decoder` turns the chosen ones into JPEG; `capture` runs one request on top of all that.
"""
