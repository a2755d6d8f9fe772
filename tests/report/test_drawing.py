"""Poses and arrows: where they are drawn, in which colour; skeletons, captions and legends."""

from pathlib import Path

import cv2
import judge
import numpy as np
import pytest

from rtmpose.data.postprocess import COCO_KEYPOINTS
from rtmpose.data.preprocess import box_to_center_scale, crop_person
from rtmpose.report import drawing
from rtmpose.report.drawing import DASHED, FAINT, INK, LEFT, MIDDLE, PAPER, RIGHT, SOLID, crop_large, draw_pose, place

GREY, MAGENTA = (120, 120, 120), (190, 20, 230)
SIZE = 624, 624


def blank() -> np.ndarray:
    return np.full((400, 500, 3), GREY, np.uint8)


def colour_at(canvas: np.ndarray, x: int, y: int) -> tuple[int, ...]:
    return tuple(canvas[y, x].tolist())


def make_pose(**joints: tuple[float, ...]) -> np.ndarray:
    """Some of COCO's keypoints, as x, y and visibility."""
    pose = np.zeros((17, 3))
    for name, joint in joints.items():
        pose[COCO_KEYPOINTS.index(name)] = joint
    return pose


@pytest.mark.parametrize("box", [(100, 50, 260, 200), (350, 40, 390, 100), (-1e11, -1e11, 1e11, 1e11), (5, 290, 9, 292),
                                 (200, 100, 200, 100)])
def test_points_are_placed_where_the_pixels_are(box: tuple[float, ...]) -> None:
    """A white square in the image is around the place of its centre on the canvas, which shows the image only."""
    x, y = (min(max((box[i] + box[i + 2]) // 2, 4), limit - 5) for i, limit in ((0, 400), (1, 300)))
    image = np.zeros((300, 400, 3), np.uint8)
    image[int(y) - 1:int(y) + 2, int(x) - 1:int(x) + 2] = 255
    canvas, matrix = crop_large(image, np.reshape(box, (2, 2)), SIZE)
    if box[0] < 0:  # the whole image is wider than high
        paper = [*range(75), *range(549, 624)]
        assert (canvas[paper] == PAPER).all() and canvas[85:540].mean() < 1
        canvas[[*range(80), *range(544, 624)]] = 0
    weights = canvas[..., 0].astype(float)
    centre = [(weights.sum(axis) * np.arange(624)).sum() / weights.sum() for axis in (0, 1)]
    assert place(np.array([[x, y, 2]]), matrix)[0] == pytest.approx([*centre, 2], abs=0.6)
    assert matrix[0, 0] <= 8.001


def test_pictures_are_the_networks_crops() -> None:
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    box = np.float32([150, 120, 230, 300])
    crop = crop_person(image, *box_to_center_scale(box, (384, 512)), (384, 512))
    assert np.array_equal(crop_large(image, box.reshape(2, 2), (384, 512))[0], crop)


def test_reduced_images_are_averaged() -> None:
    chessboard = np.dstack([np.indices((1000, 500)).sum(axis=0) % 2 * 240] * 3).astype(np.uint8)
    canvas, _ = crop_large(chessboard, np.array([(0, 0), (500, 1000)]), (60, 120))
    assert np.abs(canvas[1:-1, 1:-1] - 120.0).max() < 12


def test_joints_have_the_colour_of_their_side_and_are_filled_hollow_or_absent() -> None:
    for style in (SOLID, DASHED):
        canvas = blank()
        draw_pose(canvas, make_pose(left_wrist=(100.3, 50.2, 2), right_wrist=(300, 50, 2), nose=(200, 200, 2),
                                    left_ear=(50, 300, 1), right_ear=(300, 300, 0)), style)
        pale = [tuple(round(channel + (255 - channel) * style.white) for channel in colour)
                for colour in (LEFT, RIGHT, MIDDLE)]
        assert [colour_at(canvas, *at) for at in ((100, 50), (300, 50), (200, 200))] == pale
        assert colour_at(canvas, 50, 300) == INK and colour_at(canvas, 50 + style.radius - 1, 300) == pale[0]
        assert colour_at(canvas, 300, 300) == GREY


def test_ground_truth_is_dashed_and_other_poses_are_faint() -> None:
    """A prediction's limb is the same all along, one of the ground truth has gaps; to a hollow joint it is thin."""
    seen, widths = [], []
    for style, visibility in ((SOLID, 2), (SOLID, 1), (DASHED, 2), (FAINT, 2)):
        canvas = blank()
        draw_pose(canvas, make_pose(left_elbow=(50, 100, 2), left_wrist=(350, 100, visibility)), style, opacity=0.5)
        seen.append({colour_at(canvas, x, 100) for x in range(70, 330)})
        widths.append(int((canvas[:, 200] != GREY).any(axis=1).sum()))
    half = [tuple(int(channel * 0.5 + 60.5) for channel in colour) for colour in (LEFT, (255, 255, 255))]
    assert seen[0] == seen[1] == {half[0]} and seen[3] == {half[1]}
    assert GREY in seen[2] and half[0] not in seen[2] and len(seen[2]) > 2
    assert widths[1] < widths[0]
    assert colour_at(canvas, 50 - 6, 100) == GREY  # no joint


def test_arrow_leads_from_a_ring_to_the_other_point() -> None:
    canvas = blank()
    drawing.draw_arrow(canvas, np.array([100, 100]), np.array([300, 100]))
    assert colour_at(canvas, 200, 100) == colour_at(canvas, 298, 100) == colour_at(canvas, 84, 100) == MAGENTA
    assert colour_at(canvas, 100, 100) == GREY
    assert np.argmax((canvas == MAGENTA).all(axis=2)[:, 130:].sum(axis=0)) > 150  # the head is at the end


@pytest.mark.parametrize("number", [1e11, -3e38])
def test_limbs_towards_numbers_far_outside_are_drawn(number: float) -> None:
    canvas, pose = blank(), place(make_pose(left_elbow=(200, 100, 2), left_wrist=(number, 100, 2)), np.eye(2, 3))
    draw_pose(canvas, pose, DASHED)
    draw_pose(canvas, pose)
    beside = 200 + int(np.sign(number)) * 100
    assert colour_at(canvas, beside, 100) == LEFT
    drawing.draw_arrow(canvas, *pose[[7, 9], :2])
    assert colour_at(canvas, beside, 100) == MAGENTA


@pytest.mark.parametrize("name", ["coco", "halpe26", "coco_wholebody", "ap10k", "crowdpose"])
def test_limbs_are_mmposes(name: str) -> None:
    """All of COCO's; of other skeletons, those that mmpose has and COCO's between the same names."""
    parse = judge.mmpose("datasets.datasets").utils.parse_pose_metainfo
    info = parse({"from_file": str(judge.coco_metainfo().with_name(f"{name}.py"))})
    names = [info["keypoint_id2name"][i] for i in range(info["num_keypoints"])]
    found, colours = drawing.make_skeleton(names)
    expected = {frozenset(link) for link in info["skeleton_links"]}
    coco = {frozenset(names.index(COCO_KEYPOINTS[joint]) for joint in limb) for limb in drawing.COCO_SKELETON[0]
            if all(COCO_KEYPOINTS[joint] in names for joint in limb)}
    limbs = {frozenset(limb) for limb in found}
    assert len(limbs) == len(found) >= 10
    assert limbs == expected if name == "coco" else coco <= limbs
    extra = limbs - expected - coco
    assert {tuple(sorted(names[joint] for joint in limb)) for limb in extra} <= {
        ("L_Hip", "L_Shoulder"), ("R_Hip", "R_Shoulder"), ("L_Hip", "R_Hip"), ("L_Shoulder", "R_Shoulder")}
    for swapped, colour in zip(info["flip_indices"], colours, strict=True):
        opposite = {LEFT: RIGHT, RIGHT: LEFT, MIDDLE: MIDDLE}[colour]
        assert colours[swapped] == opposite or "face" in name or colour == MIDDLE


def test_sheets_have_a_legend_and_captions_that_fit(tmp_path: Path) -> None:
    """A caption of any length or script stays on its card. An odd card leaves paper beside it."""
    picture = np.full((624, 624, 3), GREY, np.uint8)
    cards = [drawing.make_card(picture, ["worst 1", name]) for name in ("long_name" * 50, "bild\u00fc\u4eba", "\n")]
    for card in cards:
        assert card.shape == (624 + 2 * 38 + 10 + 16, 640, 3)
        assert (card[:624, 8:-8] == GREY).all() and (card[630:, -6:] == PAPER).all()
        assert (card[624 + 38 + 10:] != PAPER).any()
    sheet = cv2.imread(str(drawing.write_sheet(tmp_path / "sheet.jpg", cards, {"prediction": SOLID, "moved": None})))
    assert sheet.shape == (2 * 46 + 32 + 2 * 726, 1280, 3)
    assert (np.abs(sheet[-700:, 650:].astype(int) - PAPER) < 9).all()
    for row, column, colour in ((0, 1, MAGENTA), (0, 2, LEFT), (0, 3, RIGHT), (1, 0, MIDDLE)):
        entry = sheet[16 + 46 * row:62 + 46 * row, 320 * column:320 * (column + 1)].astype(int)
        assert (np.abs(entry - colour).max(axis=2) < 50).sum() > 100
