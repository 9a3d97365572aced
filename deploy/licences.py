"""Which licences the packages may have: of what is shipped, and of what only builds and tests it."""

from __future__ import annotations

import re
from collections.abc import Mapping

# SPDX names. MPL-2.0 asks that changed files of the package itself stay open; LGPL-3.0 that whoever wants to can put
# another build of the library in place of the one in its wheel.
ALLOWED = frozenset(
    {
        "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "LGPL-3.0", "MIT", "MIT-0", "MIT-CMU",
        "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib",
    }
)  # fmt: skip
# Programs that tests start; nothing of them is linked, changed or passed on.
ALLOWED_OF_TOOLS = ALLOWED | {"GPL-3.0"}
# Where a package's metadata does not say: from its own licence file.
READ_BY_HAND = {"promql-parser": "MIT"}
_NAMES = {
    "mit license": "MIT", "apache software license": "Apache-2.0", "apache license 2.0": "Apache-2.0",
    "bsd license": "BSD-3-Clause", "bsd": "BSD-3-Clause", "isc license (iscl)": "ISC",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0", "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0",
    "python software foundation license": "PSF-2.0", "apache 2.0": "Apache-2.0",
}  # fmt: skip
_NOT_NAMES = {"dfsg approved"}


def spdx(text: str) -> set[str]:
    """The licences that a package's metadata names, in SPDX's words where they are known."""
    parts = [part.strip(" ()") if part.count("(") != part.count(")") else part.strip()
             for part in re.split(r";|\bAND\b|\bOR\b", text)]  # fmt: skip
    return {_NAMES.get(part.lower(), part) for part in parts if part and part.lower() not in _NOT_NAMES}


def refused(packages: Mapping[str, str], *, shipped: bool) -> list[str]:
    """`name: licence` of each package with one that is not allowed."""
    allowed = ALLOWED if shipped else ALLOWED_OF_TOOLS
    found = {name: READ_BY_HAND.get(name, text) for name, text in packages.items()}
    return sorted(f"{name}: {text}" for name, text in found.items() if not spdx(text) <= allowed)
