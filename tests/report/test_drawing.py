"""Poses and arrows: where they are drawn, in which colour; skeletons and captions."""

import cv2
import judge
import numpy as np
import pytest

from rtmpose.data.postprocess import COCO_KEYPOINTS
from rtmpose.report.drawing import (
    COCO_SKELETON,
    DASHED,
    FAINT,
    INK,
    LEFT,
    MIDDLE,
    PAPER,
    RIGHT,
    SIDES,
    View,
    cut,
    draw_arrow,
    draw_pose,
    make_card,
    make_sheet,
    make_skeleton,
)

GREY = (120, 120, 120)
LEFT_WRIST, RIGHT_WRIST, NOSE, LEFT_ELBOW = 9, 10, 0, 7


def blank(size: tuple[int, int] = (400, 300), box: tuple[float, ...] = (0, 0, 400, 300)) -> View:
    return cut(np.full((*size[::-1], 3), GREY, np.uint8), np.array(box, np.float64), (616, 616))


def colour_at(view: View, point: tuple[float, float], dx: float = 0) -> tuple[int, ...]:
    """The canvas beside the place of a point of the image."""
    x, y = np.rint(view.place(np.array(point))).astype(int)
    return tuple(map(int, view.canvas[y, x + round(dx)]))


def pose(**joints: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Some of COCO's keypoints, visible."""
    keypoints, visibility = np.zeros((17, 2)), np.zeros(17, int)
    for name, point in joints.items():
        keypoints[COCO_KEYPOINTS.index(name)], visibility[COCO_KEYPOINTS.index(name)] = point, 2
    return keypoints, visibility


@pytest.mark.parametrize("box", [(0, 0, 400, 300), (350, 40, 390, 100), (-1e11, -1e11, 1e11, 1e11), (5, 290, 9, 292)])
def test_view_places_points_where_the_pixels_are(box: tuple[float, ...]) -> None:
    """A white square in the image is around the place of its centre on the canvas."""
    x, y = (min(max((box[i] + box[i + 2]) // 2, 4), limit - 5) for i, limit in ((0, 400), (1, 300)))
    image = np.zeros((300, 400, 3), np.uint8)
    image[int(y) - 1:int(y) + 2, int(x) - 1:int(x) + 2] = 255
    view = cut(image, np.array(box), (616, 616))
    weights = view.canvas[..., 0].astype(float)
    centre = [(weights.sum(axis) * np.arange(weights.shape[1 - axis])).sum() / weights.sum() for axis in (0, 1)]
    assert view.place(np.array([x, y])) == pytest.approx(centre, abs=0.6)
    assert max(view.canvas.shape) <= 616 and max(view.canvas.shape) >= 615


@pytest.mark.parametrize(("size", "canvas"), [((10, 3000), (2, 616)), ((3000, 10), (616, 2)), ((1, 1), (8, 8)),
                                              ((500, 1000), (308, 616))], ids=str)
def test_views_of_odd_images_have_their_shape(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    view = blank(size, (0, 0, *size))
    assert view.canvas.shape[1::-1] == canvas
    assert (view.canvas == 120).all()


def test_joints_have_the_colour_of_their_side() -> None:
    view = blank()
    draw_pose(view, *pose(left_wrist=(100.3, 50.8), right_wrist=(300, 50), nose=(200, 200)))
    assert [colour_at(view, point) for point in ((100.3, 50.8), (300, 50), (200, 200))] == [LEFT, RIGHT, MIDDLE]


def test_joints_are_filled_or_hollow() -> None:
    keypoints, visibility = pose(left_wrist=(100, 50), right_wrist=(300, 50), nose=(200, 200))
    visibility[[LEFT_WRIST, NOSE]] = 1, 0
    for style, radius in ((DASHED, 6), (None, 8)):
        view = blank()
        draw_pose(view, keypoints, visibility, **({"style": style} if style else {}))
        assert colour_at(view, (100, 50)) == INK  # hollow, within a ring
        ring, filled = colour_at(view, (100, 50), radius - 1), colour_at(view, (300, 50))
        assert (ring == LEFT) == (filled == RIGHT) == (style is None) and INK not in (ring, filled)
        assert colour_at(view, (200, 200)) == GREY


def test_ground_truth_is_dashed_and_pale() -> None:
    """A prediction's limb is the same all along, one of the ground truth has gaps."""
    keypoints, visibility = pose(left_elbow=(50, 100), left_wrist=(350, 100))
    seen = []
    for style in (None, DASHED):
        view = blank()
        draw_pose(view, keypoints, visibility, **({"style": style} if style else {}))
        y = round(float(view.place(np.array([0, 100]))[1]))
        seen.append({tuple(map(int, pixel)) for pixel in view.canvas[y, 110:500]})
    assert seen[0] == {LEFT}
    assert GREY in seen[1] and LEFT not in seen[1]
    assert tuple(round(channel + (255 - channel) * 0.55) for channel in LEFT) in seen[1]


def test_limbs_to_hollow_joints_are_thin_and_other_poses_faint() -> None:
    keypoints, visibility = pose(left_elbow=(50, 100), left_wrist=(350, 100))
    widths = []
    for wrist in (2, 1):
        view, visibility[LEFT_WRIST] = blank(), wrist
        draw_pose(view, keypoints, visibility)
        widths.append(int((view.canvas[:, 308] == LEFT).all(axis=1).sum()))
    assert widths[1] < widths[0]
    view = blank()
    draw_pose(view, keypoints, np.full(17, 2) * (visibility > 0), style=FAINT, opacity=0.5)
    assert colour_at(view, (200, 100)) == pytest.approx(tuple((120 + 255) / 2 for _ in range(3)), abs=1)
    assert colour_at(view, (50, 100), -6) == GREY  # no joint
    view = blank()
    draw_pose(view, keypoints, visibility, style=FAINT, opacity=0.0)
    assert (view.canvas == GREY).all()


def test_arrow_leads_from_one_point_to_the_other() -> None:
    view = blank()
    draw_arrow(view, np.array([100, 100]), np.array([300, 100]))
    magenta = (190, 20, 230)
    assert colour_at(view, (200, 100)) == magenta and colour_at(view, (298, 100)) == magenta
    assert colour_at(view, (100, 100)) == GREY and colour_at(view, (100, 100), -16) == magenta
    heads = [(view.canvas[:, x] == magenta).all(axis=1).sum() for x in range(*map(int, view.place(np.array(
        [[130, 0], [298, 0]]))[:, 0]))]
    assert np.argmax(heads) > 0.9 * len(heads)  # the head is at the end


@pytest.mark.parametrize("number", [1e11, -1e11, 3e38, np.nan, np.inf, -np.inf])
def test_numbers_that_lie_nowhere(number: float) -> None:
    """Nothing is drawn at NaN; the other joints are, and the limbs towards numbers far outside."""
    keypoints, visibility = pose(left_elbow=(200, 100), left_wrist=(number, 100), nose=(100, 250))
    for style in (DASHED, FAINT, None):
        view = blank()
        draw_pose(view, keypoints, visibility, **({"style": style} if style else {}))
        draw_arrow(view, keypoints[LEFT_ELBOW], keypoints[LEFT_WRIST] if np.isfinite(number) else keypoints[NOSE])
        assert style is FAINT or colour_at(view, (100, 250)) != GREY
    inside = colour_at(view, (200 + np.sign(number) * 100, 100)) if not np.isnan(number) else GREY
    assert inside == (LEFT if np.isfinite(number) else GREY)


@pytest.mark.parametrize("name", ["coco", "halpe26", "coco_wholebody", "ap10k", "crowdpose"])
def test_limbs_are_mmposes(name: str) -> None:
    """All of COCO's; of other skeletons, those that mmpose has and COCO's between the same names."""
    parse = judge.mmpose("datasets.datasets").utils.parse_pose_metainfo
    info = parse({"from_file": str(judge.coco_metainfo().with_name(f"{name}.py"))})
    names = [info["keypoint_id2name"][i] for i in range(info["num_keypoints"])]
    found = make_skeleton(names, len(names))
    expected = {frozenset(link) for link in info["skeleton_links"]}
    coco = {frozenset(names.index(COCO_KEYPOINTS[joint]) for joint in limb) for limb in COCO_SKELETON.limbs
            if all(COCO_KEYPOINTS[joint] in names for joint in limb)}
    limbs = {frozenset(limb) for limb in found.limbs}
    assert len(limbs) == len(found.limbs) >= 10
    assert limbs == expected if name == "coco" else coco <= limbs
    extra = limbs - expected - coco
    assert {tuple(sorted(names[joint] for joint in limb)) for limb in extra} <= {
        ("L_Hip", "L_Shoulder"), ("R_Hip", "R_Shoulder"), ("L_Hip", "R_Hip"), ("L_Shoulder", "R_Shoulder")}
    for swapped, colours in zip(info["flip_indices"], found.colours, strict=True):
        opposite = {LEFT: RIGHT, RIGHT: LEFT, MIDDLE: MIDDLE}[colours]
        assert found.colours[swapped] == opposite or "face" in name or colours == MIDDLE


def test_skeleton_without_names() -> None:
    skeleton = make_skeleton((), 5)
    assert skeleton == ([], [MIDDLE] * 5)
    view = blank()
    draw_pose(view, np.array([[100, 100]] * 5), np.full(5, 2), skeleton)
    assert colour_at(view, (100, 100), 6) == MIDDLE


def test_captions_fit_and_odd_formats_get_no_bars() -> None:
    """A caption of any length or script stays on its card; what the picture doesn't fill is paper."""
    view = blank((100, 1000), (0, 0, 100, 1000))
    assert view.canvas.shape[1] == 62
    cards = [make_card(view, ["worst 1", name * 50], (616, 616)) for name in ("long_name", "bild\u00fc\u4eba", "\n")]
    for card in cards:
        assert card.shape[1] == 616
        assert (card[:616, :270] == PAPER).all() and (card[:616, -270:] == PAPER).all()
        assert (card[616:] != PAPER).any()
    sheet = make_sheet(cards, SIDES)
    assert sheet.shape[1] == 1280 and cv2.imencode(".jpg", sheet)[0]
