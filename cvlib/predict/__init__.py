"""From images of any kind to what a model sees in them, and to files."""

from cvlib.predict.sources import (
    VIDEO_SUFFIXES,
    Frame,
    Sources,
    find_files,
    is_image,
    is_stream,
    is_video,
    read_frames,
    read_image,
    read_stream,
    read_video,
)
from cvlib.predict.stream import predict
from cvlib.predict.views import Views, augmented_detect, sliced_detect
from cvlib.predict.whole import detect, look
from cvlib.structures import Classification, Result

__all__ = [
    "VIDEO_SUFFIXES",
    "Classification",
    "Frame",
    "Result",
    "Sources",
    "Views",
    "augmented_detect",
    "detect",
    "find_files",
    "is_image",
    "is_stream",
    "is_video",
    "look",
    "predict",
    "read_frames",
    "read_image",
    "read_stream",
    "read_video",
    "sliced_detect",
]
