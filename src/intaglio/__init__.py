"""Intaglio: turn your own archive into publishable work, marked, signed and traceable to every source."""

__version__ = "0.1.0"
