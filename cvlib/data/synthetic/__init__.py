"""Datasets that are drawn on the fly."""
