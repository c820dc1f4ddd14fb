"""Datasets in tar archives."""
