"""VOC, YOLO and COCO files of small datasets, and the findings of reading them."""

import json

from PIL import Image

from cvlib.data.labels.findings import errors_of

PROBLEMS = ("error", "warning")
NAMES = "names: [cat, dog]\n"
YAML = f"train: images/train\nval: images/val\nnc: 2\n{NAMES}"
BOX = "0 0.5 0.5 0.5 0.5"
POLYGON = "1 0.25 0.25 0.75 0.25 0.75 0.75"


def codes(table, severities=(*PROBLEMS, "info")):
    return [finding.code for finding in table.findings if finding.severity in severities]


def only_error(table):
    errors = errors_of(table.findings)
    assert len(errors) == 1, errors
    return errors[0]


def image(path, width=40, height=20, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path, **options)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def box_xml(name="cat", box=(1, 1, 10, 20), **fields):
    corners = "".join(
        f"<{side}>{value}</{side}>"
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    more = "".join(f"<{key}>{value}</{key}>" for key, value in fields.items())
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def xml(*objects, size=(40, 30), filename="", head=""):
    width, height = size
    return (
        f"{head}<annotation><filename>{filename}</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{''.join(objects)}</annotation>"
    )


def make_voc(root, files, splits=None, suffix=".jpg"):
    """Write a VOC folder with these XML files, each with an image of 40 x 30."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for stem, text in files.items():
        write(root / "Annotations" / f"{stem}.xml", text)
        image(root / "JPEGImages" / f"{stem}{suffix}", 40, 30)
    for split, lines in (splits or {}).items():
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def make_yolo(root, labels, yaml=YAML, split="train"):
    """Write an image of 40 x 20 for each name, with labels unless they are None."""
    root.mkdir(parents=True, exist_ok=True)
    for place in ("train", "val"):
        (root / "images" / place).mkdir(parents=True, exist_ok=True)
        (root / "labels" / place).mkdir(parents=True, exist_ok=True)
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    for name, text in labels.items():
        image(root / f"images/{split}/{name}.jpg")
        if text is not None:
            write(root / f"labels/{split}/{name}.txt", text)
    return root


def image_entry(number, name=None, **fields):
    return {"id": number, "file_name": name or f"{number}.png", "height": 30, "width": 40} | fields


def entry(number, image=1, category=7, **fields):
    ids = {"id": number, "image_id": image, "category_id": category}
    return ids | {"bbox": [2, 3, 10, 8]} | fields


def make_coco(root, images=None, annotations=(), categories=None, **extra):
    """Write a file, and an image of 40 x 30 for each name that stays in the folder."""
    images = [image_entry(1), image_entry(5)] if images is None else images
    content = {
        "images": images,
        "annotations": list(annotations),
        "categories": categories or [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }
    for record in images:
        name = record.get("file_name") if isinstance(record, dict) else None
        if isinstance(name, str) and name.endswith(".png") and "/" not in name:
            image(root / name, 40, 30)
    path = root / "a.json"
    path.write_text(json.dumps(content | extra))
    return path
