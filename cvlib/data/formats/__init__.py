"""Readers of label files: one for each format, each giving a `LabelTable`."""
