"""Packets and pictures: the GOP buffer, damage, decoding, JPEG."""
