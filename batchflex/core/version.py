"""The version of the package, as it is written into what it makes."""

__version__ = "0.1.0"
