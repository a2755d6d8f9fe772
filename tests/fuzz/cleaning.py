"""Annotations and detections as mmpose and pycocotools need them, to judge what the kit makes of unusual ones."""

from typing import Any

import numpy as np

Record = dict[str, Any]


def number_images(content: Record) -> dict[Any, int]:
    """A number for the id of each image, in the order of the ids, which decides between equal scores."""
    return {identity: number for number, identity in enumerate(sorted({image["id"] for image in content["images"]}), 1)}


def clean(content: Record) -> Record:
    """What is said of persons, each record once, in the form that mmpose and xtcocotools read without an error."""
    person = content["categories"][0]["id"]
    order, images = number_images(content), {image["id"]: image for image in content["images"]}.values()
    persons = {annotation["id"]: annotation for annotation in content["annotations"]
               if annotation["category_id"] == person and annotation["image_id"] in order and "keypoints" in annotation}
    return {"images": [{**image, "id": order[image["id"]]} for image in images],
            "annotations": [
                {**annotation, "id": number, "category_id": 1, "image_id": order[annotation["image_id"]],
                 "iscrowd": int(annotation.get("iscrowd") or 0), "keypoints": annotation["keypoints"] or [0] * 51}
                for number, annotation in enumerate(persons.values(), 1)],
            "categories": [{"id": 1, "name": "person"}]}


def clean_boxes(boxes: list[Record], content: Record) -> list[Record]:
    """The boxes of persons that have a part in their image, in mmpose's form."""
    order, images, kept = number_images(content), {image["id"]: image for image in content["images"]}, []
    for box in (box for box in boxes if box["category_id"] == content["categories"][0]["id"]):
        x, y, width, height = np.array(box["bbox"][:4], np.float32)
        image = images[box["image_id"]]
        if (x < x + width and y < y + height and x + width > 0 and y + height > 0 and x < image["width"]
                and y < image["height"]):
            kept.append({**box, "category_id": 1, "image_id": order[box["image_id"]]})
    return kept
