"""Datasets of all tasks; every sample is an RGB image and a dict of labels."""

from cvlib.data.collate import collate
from cvlib.data.datasets.banana import BananaDataset
from cvlib.data.datasets.classification import ClassificationDataset
from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.datasets.segmentation import SegmentationDataset
from cvlib.data.files.download import fetch_bananas
from cvlib.data.files.images import UnreadableImageError
from cvlib.data.labels.findings import BadLabelsError
from cvlib.data.load import load_dataset
from cvlib.data.shards.dataset import ShardDataset, verify_shards
from cvlib.data.shards.stream import ShardStream
from cvlib.data.shards.writer import write_shards
from cvlib.data.synthetic.bananas import SyntheticBananas

__all__ = [
    "BadLabelsError",
    "BananaDataset",
    "ClassificationDataset",
    "DetectionDataset",
    "SegmentationDataset",
    "ShardDataset",
    "ShardStream",
    "SyntheticBananas",
    "UnreadableImageError",
    "collate",
    "fetch_bananas",
    "load_dataset",
    "verify_shards",
    "write_shards",
]
