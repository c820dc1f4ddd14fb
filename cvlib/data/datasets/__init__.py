"""Data sets of detection, segmentation and classification."""
