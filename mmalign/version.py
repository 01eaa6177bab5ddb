"""The release. Read at build time, too."""

__version__ = "0.1.0"
