"""The versions of the package and of the contract; the build reads this file too."""

__version__ = "0.1.0"
CONTRACT_VERSION = 1  # of the interface for plugins; see docs/stability.md
