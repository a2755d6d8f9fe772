"""Write drawn pictures in COCO's layout; the same seed gives the same bytes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from drawing.body import KEYPOINT_NAMES
from drawing.camera import IMAGE_HEIGHT, IMAGE_WIDTH
from drawing.scene import DrawnPerson, draw_scene
from rtmpose.data.coco import ANNOTATIONS, IMAGE_FOLDERS
from rtmpose.errors import KitError
from rtmpose.files import read_json, write_bytes

_IMAGES = IMAGE_FOLDERS[0]
_JPEG_QUALITY = 92

# As in COCO's own files: pairs of keypoints, counted from 1.
_SKELETON = [[16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9], [8, 10],
             [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7]]


def draw_scenes(seed: int, count: int) -> Iterator[tuple[np.ndarray, list[DrawnPerson]]]:
    """Yield pictures (480 x 640 x 3, BGR) and their people; picture i depends only on the seed and i."""
    for index in range(count):
        yield draw_scene(np.random.default_rng([seed, index]))


def make_dataset(output: Path, images: int, seed: int) -> None:
    """Write the data set to a folder, the annotations last.

    If the folder holds this same data set, complete or not, write it again. Raises KitError if the folder holds
    anything else, or can't be written.
    """
    records = [_image_record(image_id) for image_id in range(1, images + 1)]
    content = {
        "info": {"description": f"Drawn people, seed {seed}", "version": "1.0", "year": 2025},
        "licenses": [{"id": 1, "name": "Drawn by this program", "url": ""}],
        "images": records,
        "annotations": [],
        "categories": [{"supercategory": "person", "id": 1, "name": "person", "keypoints": KEYPOINT_NAMES,
                        "skeleton": _SKELETON}],
    }
    _prepare(output, content)
    scenes = zip(records, draw_scenes(seed, images), strict=True)
    for record, (image, people) in tqdm(scenes, total=images, unit="image", desc="Drawing", disable=None):
        write_bytes(output / _IMAGES / record["file_name"], encode_jpeg(image))
        for person in people:
            content["annotations"].append(_annotation(person, len(content["annotations"]) + 1, record["id"]))
    write_bytes(output / ANNOTATIONS, json.dumps(content).encode())


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encode a picture (H x W x 3, uint8, BGR) as JPEG."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def contact_sheet(seed: int, rows: int = 3, columns: int = 4) -> np.ndarray:
    """The first pictures of a seed at half size, in a grid (BGR)."""
    pictures = [cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
                for image, _ in draw_scenes(seed, rows * columns)]
    return np.vstack([np.hstack(pictures[row * columns:(row + 1) * columns]) for row in range(rows)])


def _prepare(output: Path, content: dict[str, Any]) -> None:
    """Make the folders, and remove old annotations so that they never lie beside new images."""
    ours = {ANNOTATIONS, *(_IMAGES / record["file_name"] for record in content["images"])}
    try:
        for path in output.rglob("*") if output.is_dir() else ():
            if not path.is_dir() and path.relative_to(output) not in ours:
                raise KitError(f"{output}: holds {path.relative_to(output)}, which is not part of this data set; "
                               "choose another folder, or remove this one")
        annotations = output / ANNOTATIONS
        if annotations.exists():
            older = read_json(annotations, "a drawn data set's annotations")
            if not isinstance(older, dict) or any(older.get(key) != content[key] for key in ("info", "images")):
                raise KitError(f"{output}: holds another data set, expected none, or one with the same seed and number "
                               "of images; choose another folder, or remove this one")
            annotations.unlink()
        for folder in (annotations.parent, output / _IMAGES):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"{output}: can't be written ({error.strerror}); choose a writable folder") from error


def _image_record(image_id: int) -> dict[str, Any]:
    return {"id": image_id, "file_name": f"{image_id:012d}.jpg", "width": IMAGE_WIDTH, "height": IMAGE_HEIGHT,
            "license": 1}


def _annotation(person: DrawnPerson, annotation_id: int, image_id: int) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "num_keypoints": int((person.keypoints[:, 2] > 0).sum()),
        "keypoints": [number for x, y, v in person.keypoints.tolist() for number in (x, y, int(v))],
        "bbox": [float(number) for number in person.bbox],
        "area": float(person.area),
        "segmentation": _polygons(person),
    }


def _polygons(person: DrawnPerson) -> list[list[float]]:
    """COCO polygons (x1 y1 x2 y2 ...) around a person's visible pixels."""
    x, y = person.bbox[:2]
    contours, _ = cv2.findContours(person.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
    return [contour.ravel().astype(float).tolist() for contour in contours if len(contour) >= 3]
