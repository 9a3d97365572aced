"""Reads for clients: queries, and the serializers of every row."""
