"""`python -m services.commands`."""

from services.commands.app import app

if __name__ == "__main__":
    app(prog_name="python -m services.commands")
