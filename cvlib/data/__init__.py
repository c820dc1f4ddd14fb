"""Datasets, all giving the same sample: an RGB image and a dict of boxes and labels."""

from cvlib.data.banana import BananaDataset
from cvlib.data.collate import collate
from cvlib.data.download import download, extract_zip, fetch_bananas
from cvlib.data.synthetic import SyntheticBananas

__all__ = [
    "BananaDataset",
    "SyntheticBananas",
    "collate",
    "download",
    "extract_zip",
    "fetch_bananas",
]
