"""What an operator types: `python -m services.commands`."""
