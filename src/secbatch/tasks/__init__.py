"""Tasks: one enrichment a file, from columns to token ids and back to columns."""
