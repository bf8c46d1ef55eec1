"""Sources: files in, shards and rejected lines out."""
