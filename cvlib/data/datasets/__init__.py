"""Datasets of images for detection, segmentation and classification."""
