"""Small images and videos to predict on."""

import cv2
import numpy as np
from PIL import Image

COLOUR = (200, 100, 50)


def save_image(path, size=(60, 40), mode="RGB", **options):
    """Write an image of one colour; ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOUR).convert(mode).save(path, **options)
    return path


def save_video(path, frames=5, size=(64, 48)):
    """Write a video with frames of one grey each, brighter and brighter, 10 per second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, size)
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), 30 + 40 * number, np.uint8))
    writer.release()
    return path
