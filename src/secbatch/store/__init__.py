"""The store: what is done, and what readers see."""
