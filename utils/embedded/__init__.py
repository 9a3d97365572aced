"""PostgreSQL and an S3 store that need no installation: each a child process over a folder of DATA_DIR.

For a laptop, a demo and the tests. Production sets ``DB__*`` and ``STORAGE__*`` and starts none of this; it uses
only ``lock`` and ``errors``, which need no package that the container does not have: nothing is imported here.
"""
