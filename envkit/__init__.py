"""envkit: a virtualenv for the whole filesystem."""

__version__ = "0.1.0"
