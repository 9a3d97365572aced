"""Clocks: when a picture was taken, and by whose clock. Pure."""
