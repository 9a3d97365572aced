"""One browser for both files: a fixture that each imported for itself would be two."""

from tests.kits.browser import browser, tab

__all__ = ["browser", "tab"]
