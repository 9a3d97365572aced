"""What is said on the wire (`schemas`), kept in tables (`entities`) and passed between services (`values`)."""
