"""Writers of results: images, videos, COCO, YOLO, CSV, JSON and class maps."""
