"""Host tools for chargekeep."""

__version__ = "0.1.0"
