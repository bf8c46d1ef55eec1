"""Engines move shards through a worker and hand finished tables to the store."""
