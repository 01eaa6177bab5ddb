"""The release. Read at build time, too."""

__version__ = "0.1.0"
CONTRACT_VERSION = 1  # of what plugins see; docs/stability.md
