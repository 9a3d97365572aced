"""`main.py` that reads the provider's keys again after 1 s instead of 30: for tests of their rotation."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

if __name__ == "__main__":
    from main import main
    from services.access import jwks

    jwks.REFRESH_EVERY = 1.0
    sys.exit(main())
