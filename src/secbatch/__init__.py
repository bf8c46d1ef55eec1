"""secbatch: batch text enrichment for security teams."""

__version__ = "0.1.0"
