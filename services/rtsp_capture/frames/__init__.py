"""From a chosen picture to a stored frame: decode, PUT, ledger, spool."""
