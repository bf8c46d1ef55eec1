"""Commands that train the built-in models from a corpus."""
