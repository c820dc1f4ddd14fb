"""Data sets in shards of tar archives."""
