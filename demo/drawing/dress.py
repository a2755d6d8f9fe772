"""Dress a skeleton: coloured parts, each a few polygons at one depth, ready to paint."""

from dataclasses import dataclass, field

import numpy as np

from drawing.body import KEYPOINT_NAMES, Body, Pose, Skeleton, build_skeleton, head_point
from drawing.camera import View, projection
from drawing.outfit import Outfit
from drawing.shapes import UNIT_CIRCLE, Colour, box_corners, capsule, disc, hull, shade

OBJECT = "object"
"""Name of a part that is not part of the person."""

PART_NAMES = (
    "head", "torso", "pelvis", "skirt",
    "left_upper_arm", "left_forearm", "left_hand", "right_upper_arm", "right_forearm", "right_hand",
    "left_thigh", "left_shin", "left_foot", "right_thigh", "right_shin", "right_foot", "backpack")

# Rows: up, half width, half depth, in body heights.
TORSO_RINGS = np.array([[0.305, 0.055, 0.045], [0.285, 0.118, 0.055], [0.205, 0.112, 0.074], [0.10, 0.092, 0.066],
                        [0.02, 0.098, 0.070]])
PELVIS_RINGS = np.array([[0.045, 0.095, 0.068], [0.0, 0.100, 0.072], [-0.055, 0.082, 0.062]])


@dataclass
class Part:
    """A part of a person, or an object, at one depth."""

    name: str
    depth: float  # pixels
    polygons: list[tuple[np.ndarray, Colour]] = field(default_factory=list)  # n x 2, pixels, in painting order


@dataclass
class Figure:
    """A person ready to paint."""

    parts: list[Part]  # from far to near
    keypoints: np.ndarray  # 17 x 2, pixels
    faces_camera: np.ndarray  # bool (17,)
    height: float  # pixels, of the body when it stands upright


class Dresser:
    """Turn one skeleton into coloured parts; all their points are in pixels."""

    def __init__(self, skeleton: Skeleton, pose: Pose, body: Body, outfit: Outfit, view: View) -> None:
        self.skeleton, self.pose, self.body, self.outfit, self.view = skeleton, pose, body, outfit, view
        self.matrix = projection(view)
        self.offset = np.array([view.x, view.y, 0.0])
        self.joints = {name: self.project(point) for name, point in skeleton.joints.items()}
        self.parts: list[Part] = []

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (... x 3) from body axes to picture axes."""
        return points @ self.matrix.T + self.offset

    def facing(self, normals: np.ndarray) -> np.ndarray:
        """Cosine between directions (... x 3, body axes) and the direction to the camera."""
        return -(normals @ self.matrix[2]) / self.view.height

    def add(self, name: str, depth: float) -> Part:
        """Start a part at a depth in pixels."""
        part = Part(name, depth)
        self.parts.append(part)
        return part

    def rounded(self, part: Part, start: np.ndarray, end: np.ndarray, radii: tuple[float, float], colour: Colour
                ) -> None:
        """Add a tapered limb with a dark edge and a light stripe; radii are in body heights."""
        r1, r2 = radii[0] * self.view.height, radii[1] * self.view.height
        part.polygons.append((capsule(start, end, r1, r2), shade(colour, 0.66)))
        part.polygons.append((capsule(start, end, r1 * 0.86, r2 * 0.86), colour))
        shift = np.array([-0.22, -0.22]) * min(r1, r2)
        light = capsule(start[:2] + shift, end[:2] + shift, r1 * 0.4, r2 * 0.4)
        part.polygons.append((light, shade(colour, 1.13)))

    def ring(self, up: float, half_width: float, half_depth: float) -> np.ndarray:
        """Points (14 x 3, body axes) around the upright trunk at a height."""
        left = half_width * self.body.width * UNIT_CIRCLE[:, 0]
        return np.stack([left, np.full(len(left), up), half_depth * self.body.width**0.5 * UNIT_CIRCLE[:, 1]], axis=1)

    def trunk(self, name: str, rings: np.ndarray, turn: np.ndarray, colour: Colour, bias: float) -> Part:
        """Add a part of the trunk: hulls between neighbouring rings, after their dark outlines."""
        points = [self.project(self.ring(*row) @ turn.T) for row in rings]
        depth = float(np.mean([p[:, 2].mean() for p in points])) + bias * self.view.height
        part = self.add(name, depth)
        outlines = [hull(np.concatenate(pair)) for pair in zip(points[:-1], points[1:], strict=True)]
        edge = max(0.006 * self.view.height, 0.3)
        for outline in outlines:
            centre = outline.mean(axis=0)
            size = np.abs(outline - centre).max(axis=0) + 1e-6
            part.polygons.append((centre + (outline - centre) * (1 + edge / size), shade(colour, 0.66)))
        part.polygons += [(outline, colour) for outline in outlines]
        return part

    def surface(self, angle: float, ups: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """Projected points (n x 3) on the torso; the angle is in degrees from the front to the left."""
        widths = np.interp(ups, TORSO_RINGS[::-1, 0], TORSO_RINGS[::-1, 1]) * self.body.width
        depths = np.interp(ups, TORSO_RINGS[::-1, 0], TORSO_RINGS[::-1, 2]) * self.body.width**0.5
        a = np.radians(angle)
        points = np.stack([widths * np.sin(a), ups, depths * np.cos(a)], axis=1)
        return self.project(points @ turn.T)

    def torso(self) -> None:
        """Add the shirt with its pattern, the details in front, the seam and the backpack behind."""
        outfit, upper = self.outfit, self.skeleton.upper
        part = self.trunk("torso", TORSO_RINGS, upper, outfit.shirt, 0.0)
        self.pattern(part)
        front = float(self.facing(upper @ np.array([0.0, 0.0, 1.0])))
        if front > 0.1:
            self.front_details(part)
        if front < -0.1:
            seam = self.surface(180, np.array([0.27, 0.22]), upper)
            h = self.view.height
            part.polygons.append((capsule(seam[0], seam[1], 0.03 * h, 0.008 * h), shade(outfit.shirt, 0.82)))
        self.backpack(part, front)

    def pattern(self, part: Part) -> None:
        """Add stripes, a band or dots all round the shirt."""
        outfit, upper, h = self.outfit, self.skeleton.upper, self.view.height
        if outfit.pattern in ("stripes", "band"):
            rows = np.linspace(0.05, 0.25, 6) if outfit.pattern == "stripes" else np.array([0.17])
            half = 0.010 if outfit.pattern == "stripes" else 0.032
            for up in rows:
                width, depth = (np.interp(up, TORSO_RINGS[::-1, 0], TORSO_RINGS[::-1, k]) * 0.97 for k in (1, 2))
                rings = [self.project(self.ring(up + d, width, depth) @ upper.T) for d in (half, -half)]
                part.polygons.append((hull(np.concatenate(rings)), outfit.shirt_trim))
        if outfit.pattern == "dots":
            for angle in range(0, 360, 40):
                if self.facing(upper @ np.array([np.sin(np.radians(angle)), 0, np.cos(np.radians(angle))])) > 0.25:
                    dots = self.surface(angle, np.array([0.24, 0.18, 0.12, 0.06]), upper)
                    part.polygons += [(disc(dot, 0.011 * h), outfit.shirt_trim) for dot in dots]

    def front_details(self, part: Part) -> None:
        """Add the open collar, and buttons, a zip, a tie or a print."""
        outfit, upper, h = self.outfit, self.skeleton.upper, self.view.height
        collar = np.concatenate([self.surface(angle, np.array([up]), upper)
                                 for angle, up in ((-38, 0.295), (38, 0.295), (0, 0.25))])
        part.polygons.append((hull(collar), outfit.skin))
        line = self.surface(0, np.array([0.25, 0.19, 0.13, 0.07, 0.03]), upper)
        mark = outfit.shirt_trim
        if outfit.front_detail == "buttons":
            part.polygons.append((capsule(line[0], line[-1], 0.012 * h, 0.012 * h), shade(outfit.shirt, 0.8)))
            part.polygons += [(disc(p, 0.009 * h), (240.0, 240.0, 240.0)) for p in line]
        elif outfit.front_detail == "zip":
            part.polygons.append((capsule(line[0], line[-1], 0.007 * h, 0.007 * h), shade(mark, 0.6)))
        elif outfit.front_detail == "tie":
            part.polygons.append((capsule(line[0], line[3], 0.008 * h, 0.018 * h), mark))
        elif outfit.front_detail == "print":
            points = [self.surface(a, np.array([0.20, 0.13]), upper) for a in (-30, 30)]
            part.polygons.append((hull(np.concatenate(points)), mark))

    def backpack(self, torso: Part, front: float) -> None:
        """Add a backpack: the bag behind, the straps in front."""
        outfit, upper, h = self.outfit, self.skeleton.upper, self.view.height
        if outfit.backpack is None:
            return
        corners = box_corners((-0.07 * self.body.width, 0.07 * self.body.width), (0.26, 0.09), (-0.06, -0.15))
        points = self.project(corners @ upper.T)
        bag = self.add("backpack", float(points[:, 2].mean()))
        outline = hull(points)
        centre = outline.mean(axis=0)
        bag.polygons += [(outline, shade(outfit.backpack, 0.7)), (centre + 0.85 * (outline - centre), outfit.backpack)]
        if front > 0.1:
            for angle in (-42, 42):
                strap = self.surface(angle, np.array([0.285, 0.12]), upper)
                torso.polygons.append((capsule(strap[0], strap[1], 0.011 * h, 0.011 * h), outfit.backpack))

    def pelvis(self) -> None:
        """Add the hips in the colour of the lower clothes, and a skirt if there is one."""
        outfit = self.outfit
        self.trunk("pelvis", PELVIS_RINGS, np.eye(3), outfit.lower_colour, 0.02)
        if outfit.lower != "skirt":
            return
        hips = self.project(self.ring(0.04, 0.098, 0.070))
        share = 0.62
        hem = [self.joints[f"{s}_hip"] * (1 - share) + self.joints[f"{s}_knee"] * share for s in ("left", "right")]
        radius = 0.075 * self.view.height
        below = np.concatenate([disc(p, radius) for p in hem])
        outline = hull(np.concatenate([hips[:, :2], below]))
        nearest = min(hem[0][2], hem[1][2], float(hips[:, 2].mean()))
        part = self.add("skirt", nearest - 0.03 * self.view.height)
        centre = outline.mean(axis=0)
        part.polygons += [(outline, shade(outfit.lower_colour, 0.66)),
                          (centre + 0.95 * (outline - centre), outfit.lower_colour)]

    def arm(self, side: str) -> None:
        """Add upper arm, forearm and hand; the sleeve may be missing, short or long."""
        outfit, w = self.outfit, self.body.limb_width
        shoulder, elbow, wrist, finger = (self.joints[f"{side}_{j}"] for j in ("shoulder", "elbow", "wrist", "finger"))
        bias = -0.02 * self.view.height
        sleeve = outfit.sleeve
        upper = self.add(f"{side}_upper_arm", (shoulder[2] + elbow[2]) / 2 + bias)
        self.rounded(upper, shoulder, elbow, (0.036 * w, 0.028 * w), outfit.shirt if sleeve > 1 else outfit.skin)
        if 0 < sleeve < 1:
            self.rounded(upper, shoulder, shoulder + sleeve * (elbow - shoulder), (0.039 * w, 0.037 * w), outfit.shirt)
        fore = self.add(f"{side}_forearm", (elbow[2] + wrist[2]) / 2 + bias - 1e-3)
        self.rounded(fore, elbow, wrist, (0.028 * w, 0.021 * w), outfit.shirt if sleeve > 1 else outfit.skin)
        hand = self.add(f"{side}_hand", (wrist[2] + finger[2]) / 2 + bias - 2e-3)
        self.rounded(hand, wrist, finger, (0.019 * w, 0.017 * w), outfit.skin)
        thumb = self.skeleton.joints[f"{side}_wrist"] + 0.035 * self.skeleton.upper[:, 2]
        self.rounded(hand, wrist, self.project(thumb), (0.010 * w, 0.008 * w), outfit.skin)

    def leg(self, side: str) -> None:
        """Add thigh, shin and shoe, with trousers, shorts or bare legs."""
        outfit, w = self.outfit, self.body.limb_width
        hip, knee, ankle, heel, toe = (self.joints[f"{side}_{j}"] for j in ("hip", "knee", "ankle", "heel", "toe"))
        cloth = outfit.lower_colour
        thigh = self.add(f"{side}_thigh", (hip[2] + knee[2]) / 2)
        self.rounded(thigh, hip, knee, (0.056 * w, 0.040 * w), cloth if outfit.lower == "trousers" else outfit.skin)
        if outfit.lower == "shorts":
            self.rounded(thigh, hip, hip + 0.62 * (knee - hip), (0.058 * w, 0.054 * w), cloth)
        shin = self.add(f"{side}_shin", (knee[2] + ankle[2]) / 2)
        self.rounded(shin, knee, ankle, (0.039 * w, 0.025 * w), cloth if outfit.lower == "trousers" else outfit.skin)
        foot = self.add(f"{side}_foot", (ankle[2] + toe[2]) / 2 - 2e-3)
        h = self.view.height
        self.rounded(foot, heel, toe, (0.026 * w, 0.019 * w), outfit.shoe)
        sole = np.array([0.0, 0.016 * h])
        sole_outline = capsule(heel[:2] + sole, toe[:2] + sole * 0.7, 0.007 * h, 0.006 * h)
        foot.polygons.append((sole_outline, (235.0, 235.0, 235.0)))

    def patch(self, azimuths: np.ndarray, elevations: np.ndarray) -> np.ndarray | None:
        """Outline of the visible side of a patch of the head, or None if none of it faces the camera."""
        grid = np.stack(np.meshgrid(azimuths, elevations), axis=-1).reshape(-1, 2)
        points, normals = head_point(self.skeleton, self.body, grid[:, 0], grid[:, 1])
        seen = self.facing(normals) > -0.08
        return hull(self.project(points[seen])) if seen.sum() >= 5 else None

    def head(self) -> None:
        """Add neck, skull with hair, face, ears and hat."""
        outfit, h = self.outfit, self.view.height
        centre = self.joints["head"]
        neck = self.add("head", self.joints["neck"][2] - 0.02 * h)
        self.rounded(neck, self.joints["neck"], centre, (0.034, 0.031), shade(outfit.skin, 0.9))
        self.hanging_hair()
        part = self.add("head", centre[2] - 0.10 * h)
        hair = shade(outfit.skin, 0.96) if outfit.hair_style == "bald" else outfit.hair
        skull = self.patch(np.arange(0, 360, 30), np.arange(-80, 90, 20))
        middle = skull.mean(axis=0)
        part.polygons.append((middle + 1.06 * (skull - middle), shade(hair, 0.75)))
        part.polygons.append((skull, hair))
        self.face(part)
        self.ears(part)
        self.hat(part)

    def hanging_hair(self) -> None:
        """Add long hair down the back, or a ponytail."""
        outfit, h = self.outfit, self.view.height
        if outfit.hair_style not in ("long", "tail"):
            return
        long = outfit.hair_style == "long"
        start = self.skeleton.joints["head"] + self.skeleton.head @ np.array([0, 0.02, -0.03 if long else -0.07])
        end = self.skeleton.joints["neck"] + self.skeleton.upper @ np.array([0, -0.03, -0.06 if long else -0.09])
        p, q = self.project(start), self.project(end)
        part = self.add("head", (p[2] + q[2]) / 2 - 0.03 * h)
        self.rounded(part, p, q, (0.062, 0.058) if long else (0.02, 0.014), outfit.hair)

    def face(self, part: Part) -> None:
        """Add skin, eyes, brows, nose and mouth where they face the camera."""
        outfit, h = self.outfit, self.view.height
        skin = self.patch(np.arange(-72, 73, 18), np.array([-85, -60, -35, -10, 15, 32]))
        if skin is None:
            return
        part.polygons.append((skin, outfit.skin))
        size = self.body.head_size * h
        for side in (-1, 1):
            point, normal = head_point(self.skeleton, self.body, side * 27, 4)
            seen = float(self.facing(normal)[0])
            if seen > 0.05:
                eye = self.project(point)[0]
                part.polygons.append((disc(eye, 0.0105 * size), (245.0, 245.0, 245.0)))
                part.polygons.append((disc(eye, 0.0070 * size), (40.0, 30.0, 20.0)))
                brow = self.project(head_point(self.skeleton, self.body, np.array([side * 16.0, side * 40.0]), 20)[0])
                part.polygons.append((capsule(brow[0], brow[1], 0.004 * size, 0.004 * size), shade(outfit.hair, 0.8)))
        mouth, normals = head_point(self.skeleton, self.body, np.array([-18.0, 18.0]), -38)
        if self.facing(normals).max() > 0.1:
            p = self.project(mouth)
            part.polygons.append((capsule(p[0], p[1], 0.005 * size, 0.005 * size), (70.0, 60.0, 160.0)))
        self.nose(part)

    def nose_tip(self) -> np.ndarray:
        """Tip of the nose (3,), in body axes."""
        bridge = head_point(self.skeleton, self.body, 0, -12)[0][0]
        return bridge + self.skeleton.head[:, 2] * 0.014 * self.body.head_size

    def nose(self, part: Part) -> None:
        """Add a wedge from between the eyes to the tip of the nose."""
        if float(self.facing(self.skeleton.head[:, 2])) < -0.05:
            return
        size = self.body.head_size * self.view.height
        root = self.project(head_point(self.skeleton, self.body, 0, 5)[0])[0]
        tip = self.project(self.nose_tip())
        part.polygons.append((capsule(root, tip, 0.006 * size, 0.012 * size), shade(self.outfit.skin, 0.8)))

    def ears(self, part: Part) -> None:
        """Add the visible ears; long hair covers them."""
        if self.outfit.hair_style == "long":
            return
        size = self.body.head_size * self.view.height
        for side in (-1, 1):
            point, normal = head_point(self.skeleton, self.body, side * 97, -4)
            if float(self.facing(normal)[0]) > -0.35:
                ear = self.project(point)[0]
                part.polygons.append((disc(ear, 0.017 * size), shade(self.outfit.skin, 0.72)))
                part.polygons.append((disc(ear, 0.012 * size), shade(self.outfit.skin, 0.95)))

    def hat(self, part: Part) -> None:
        """Add a cap with its peak in front."""
        if self.outfit.hat is None:
            return
        size = self.body.head_size * self.view.height
        crown = self.patch(np.arange(0, 360, 30), np.array([32, 50, 70, 88]))
        if crown is None:
            return
        peak = head_point(self.skeleton, self.body, np.array([-45.0, 0.0, 45.0]), 30)[0]
        peak = np.concatenate([peak, peak + self.skeleton.head[:, 2] * 0.05 * self.body.head_size])
        outline = hull(self.project(peak))
        middle = crown.mean(axis=0)
        crown = (middle + 1.08 * (crown - middle), self.outfit.hat)
        brim = (outline, shade(self.outfit.hat, 0.7))
        facing = float(self.facing(self.skeleton.head[:, 2])) > -0.2
        part.polygons += [crown, brim] if facing else [brim, crown]
        button = self.project(self.skeleton.joints["head"] + self.skeleton.head[:, 1] * 0.08)
        part.polygons.append((disc(button, 0.008 * size), shade(self.outfit.hat, 0.6)))

    def seat(self) -> None:
        """Add a stool under a seated person, as an object."""
        corners = box_corners((-0.13, 0.13), (-0.06, -0.27), (-0.1, 0.1))
        points = self.project(corners)
        part = self.add(OBJECT, float(points[:, 2].mean()) + 0.12 * self.view.height)
        part.polygons.append((hull(points), shade(self.outfit.shirt_trim, 0.5)))
        part.polygons.append((hull(points[[0, 1, 4, 5]]), shade(self.outfit.shirt_trim, 0.8)))

    def dress(self) -> list[Part]:
        """Add all parts, and sort them from far to near."""
        if self.pose.seated:
            self.seat()
        self.torso()
        self.pelvis()
        for side in ("left", "right"):
            self.arm(side)
            self.leg(side)
        self.head()
        return sorted(self.parts, key=lambda part: -part.depth)


def _face_keypoints(skeleton: Skeleton, body: Body) -> tuple[np.ndarray, np.ndarray]:
    """Nose, eyes and ears (5 x 3) and their outward directions (5 x 3), in body axes."""
    angles = np.array([[0, -12], [27, 4], [-27, 4], [97, -4], [-97, -4]], dtype=float)
    return head_point(skeleton, body, angles[:, 0], angles[:, 1])


def make_figure(pose: Pose, body: Body, outfit: Outfit, view: View) -> Figure:
    """A person ready to paint."""
    skeleton = build_skeleton(pose, body)
    dresser = Dresser(skeleton, pose, body, outfit, view)
    face, normals = _face_keypoints(skeleton, body)
    face[0] = dresser.nose_tip()
    joints = np.stack([skeleton.joints[name] for name in KEYPOINT_NAMES[5:]])
    keypoints = dresser.project(np.concatenate([face, joints]))[:, :2]
    seen = np.ones(len(KEYPOINT_NAMES), dtype=bool)
    seen[:5] = dresser.facing(normals) > np.array([-0.1, 0.05, 0.05, -0.2, -0.2])
    if outfit.hair_style == "long":
        seen[3:5] = False
    for index, turn in ((5, skeleton.upper), (11, np.eye(3))):
        left = float(dresser.facing(turn[:, 0]))
        seen[index], seen[index + 1] = left > -0.5, left < 0.5
    return Figure(dresser.dress(), keypoints, seen, view.height)
