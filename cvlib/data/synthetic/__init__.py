"""Data sets that the code draws itself."""
