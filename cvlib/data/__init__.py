"""Datasets, all giving the same sample: an RGB image and a dict of what it shows."""

from cvlib.data.collate import collate
from cvlib.data.datasets.banana import BananaDataset
from cvlib.data.datasets.classification import ClassificationDataset
from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.datasets.segmentation import SegmentationDataset
from cvlib.data.files.download import download, extract_zip, fetch_bananas
from cvlib.data.load import find_splits, load_dataset
from cvlib.data.shards.dataset import ShardDataset, ShardStream, verify_shards, write_shards
from cvlib.data.synthetic.bananas import SyntheticBananas

__all__ = [
    "BananaDataset",
    "ClassificationDataset",
    "DetectionDataset",
    "SegmentationDataset",
    "ShardDataset",
    "ShardStream",
    "SyntheticBananas",
    "collate",
    "download",
    "extract_zip",
    "fetch_bananas",
    "find_splits",
    "load_dataset",
    "verify_shards",
    "write_shards",
]
