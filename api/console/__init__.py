"""The console: a page on the public API. Its files lie under `static`; `pages` only serves them."""
