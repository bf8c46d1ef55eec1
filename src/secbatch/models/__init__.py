"""Models: from token ids to tensors and back; no column names in here."""
