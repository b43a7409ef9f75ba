"""Drawn pictures, written in the formats in which published tests of segmentation come."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from PIL import Image
from scipy import ndimage

from lab.scenes import render_scene


class Drawn(NamedTuple):
    """A picture, the mask of each class that is on it, and what each is called."""

    image: Image.Image
    masks: Mapping[str, np.ndarray]


def scenes(count: int, objects: int, first: int = 23_000_000, size: int = 128) -> list[Drawn]:
    """Drawn scenes whose objects are of different kinds."""
    found: list[Drawn] = []
    seed = first
    while len(found) < count:
        scene = render_scene(seed, size=size, objects=objects, split="train")
        words = zip(scene.description.words, scene.masks, strict=True)
        masks = {
            scene.scene.objects[word.objects[0]].shape: mask
            for word, mask in words
            if word.kind == "shape" and mask.any()
        }
        if len(masks) == objects:
            found.append(Drawn(scene.image, masks))
        seed += 1
    return found


def write_voc(
    folder: Path, pictures: Sequence[Drawn], numbers: Mapping[str, int], border: bool = True
) -> None:
    """As the folder VOC2012, with void borders around the objects."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    names = [f"2007_{number:06d}" for number in range(len(pictures))]
    (folder / "ImageSets/Segmentation/val.txt").write_text("\n".join(names) + "\n")
    for name, drawn in zip(names, pictures, strict=True):
        drawn.image.save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
        labels = np.zeros(drawn.image.size[::-1], dtype=np.uint8)
        for shape, mask in drawn.masks.items():
            labels[mask] = numbers[shape]
        if border:
            filled = labels > 0
            labels[ndimage.binary_dilation(filled) & ~ndimage.binary_erosion(filled)] = 255
        picture = Image.fromarray(labels)
        picture.putpalette([n % 256 for n in range(768)])
        assert picture.mode == "P"
        picture.save(folder / "SegmentationClass" / f"{name}.png")


def write_imagenet_seg(path: Path, pictures: Sequence[Drawn], ids: Sequence[str]) -> None:
    """As `gtsegs_ijcv.mat`: MATLAB 7.3, whose arrays are transposed and referred to."""
    with h5py.File(path, "w", userblock_size=512) as file:
        fields: dict[str, list[Any]] = {"img": [], "gt": [], "id": []}
        for number, (drawn, name) in enumerate(zip(pictures, ids, strict=True)):
            pixels = np.asarray(drawn.image).transpose(2, 1, 0)
            (mask,) = drawn.masks.values()
            mask_set = file.create_dataset(f"#refs#/mask{number}", data=mask.T.astype(np.uint8))
            cell = np.array([[mask_set.ref]], dtype=h5py.ref_dtype)
            text = np.frombuffer(name.encode("utf-16-le"), dtype=np.uint16)[:, None]
            for key, data in (("img", pixels), ("gt", cell), ("id", text)):
                fields[key].append(file.create_dataset(f"#refs#/{key}{number}", data=data).ref)
        for key, references in fields.items():
            data = np.array(references, dtype=h5py.ref_dtype)[:, None]
            file.create_dataset(f"value/{key}", data=data)


def write_coco(
    folder: Path,
    images: Sequence[Image.Image],
    annotations: Sequence[dict[str, Any]],
    categories: Mapping[int, str],
) -> None:
    """As COCO 2017; each annotation is given with `image_id` from 1, and the rest is added."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    rows = []
    for number, image in enumerate(images, start=1):
        name = f"{number:012d}.jpg"
        image.save(folder / "val2017" / name, quality=95)
        rows.append({"id": number, "file_name": name, "width": image.width, "height": image.height})
    every = [{"id": n, "iscrowd": 0, **each} for n, each in enumerate(annotations, start=1)]
    told = {
        "images": rows,
        "annotations": every,
        "categories": [{"id": key, "name": name} for key, name in categories.items()],
    }
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(told))


def counts(mask: np.ndarray) -> dict[str, Any]:
    """A mask as COCO's uncompressed run lengths, column by column, zeros first."""
    flat = mask.T.ravel().astype(int)
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *lengths] if flat[0] else lengths}
