"""A body in 3D: proportions and pose, and the skeleton they give.

Body axes: the person's left, up, forward, in units of the body's height. The origin is between the hips.
"""

from dataclasses import dataclass

import numpy as np

KEYPOINT_NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle")
"""COCO's 17 keypoints, in COCO's order."""

_UPPER_ARM, _FOREARM, _HAND = 0.165, 0.145, 0.055
_THIGH, _SHIN, _FOOT = 0.235, 0.225, 0.105
_HEAD_RADII = np.array([0.058, 0.076, 0.066])


@dataclass(frozen=True)
class Body:
    """Proportions of a person; 1 is average."""

    head_size: float
    width: float
    leg_length: float
    limb_width: float


@dataclass(frozen=True)
class Pose:
    """Joint angles in radians; pairs are (left, right)."""

    arm_flexion: tuple[float, float]
    arm_abduction: tuple[float, float]
    elbow: tuple[float, float]
    elbow_inward: tuple[float, float]
    thigh_flexion: tuple[float, float]
    thigh_abduction: tuple[float, float]
    knee: tuple[float, float]
    lean_forward: float
    lean_side: float
    twist: float
    head_yaw: float
    head_pitch: float
    seated: bool


def sample_body(rng: np.random.Generator) -> Body:
    """Random proportions; one person in five is a child."""
    child = rng.random() < 0.2
    return Body(
        head_size=rng.uniform(1.15, 1.35) if child else rng.uniform(0.95, 1.15),
        width=rng.uniform(0.9, 1.25),
        leg_length=rng.uniform(0.82, 0.92) if child else rng.uniform(0.93, 1.05),
        limb_width=rng.uniform(0.9, 1.25),
    )


def _pair(rng: np.random.Generator, low: float, high: float) -> tuple[float, float]:
    """Two random angles in radians; the bounds are in degrees."""
    a, b = np.radians(rng.uniform(low, high, 2))
    return float(a), float(b)


def _arms(rng: np.random.Generator, kind: str, stride: float) -> dict[str, tuple[float, float]]:
    """Random arm angles for one kind of arm pose; arms that swing follow the stride."""
    ranges = {
        "hanging": ((-12, 15), (4, 18), (2, 30), (0, 0.6)),
        "swinging": ((-5, 5), (4, 14), (15, 90), (0, 0.4)),
        "raised": ((-10, 25), (95, 165), (0, 70), (-0.3, 0.3)),
        "akimbo": ((-25, -5), (35, 50), (75, 100), (1.0, 1.4)),
        "forward": ((40, 100), (0, 25), (5, 80), (0, 0.8)),
        "free": ((-30, 110), (5, 90), (0, 120), (-0.2, 1.2)),
    }
    flexion, abduction, elbow, inward = ranges[kind]
    swing = -stride * rng.uniform(0.6, 1.1) if kind == "swinging" else 0.0
    left, right = _pair(rng, *flexion)
    return {
        "arm_flexion": (left + swing, right - swing),
        "arm_abduction": _pair(rng, *abduction),
        "elbow": _pair(rng, *elbow),
        "elbow_inward": tuple(rng.uniform(*inward, 2)),
    }


def _legs(rng: np.random.Generator, kind: str) -> tuple[dict[str, tuple[float, float]], float]:
    """Random leg angles for one kind of stance, and the stride: the left thigh's angle in radians."""
    stride = 0.0
    if kind == "standing":
        thigh, knee, apart = _pair(rng, -6, 12), _pair(rng, 0, 12), _pair(rng, 1, 16)
    elif kind == "walking":
        stride = float(np.radians(rng.uniform(15, 45)) * rng.choice([-1, 1]))
        bent, straight = np.radians(rng.uniform(15, 75)), np.radians(rng.uniform(0, 20))
        thigh, apart = (stride, -stride * 0.7), _pair(rng, 0, 8)
        knee = (straight, bent) if stride > 0 else (bent, straight)
    elif kind == "lunging":
        thigh, knee, apart = _pair(rng, -20, 75), _pair(rng, 0, 90), _pair(rng, 5, 35)
    elif kind == "sitting":
        thigh, knee, apart = _pair(rng, 70, 95), _pair(rng, 60, 105), _pair(rng, 3, 22)
    else:
        thigh, knee, apart = _pair(rng, 55, 100), _pair(rng, 80, 125), _pair(rng, 8, 30)
    return {"thigh_flexion": thigh, "thigh_abduction": apart, "knee": knee}, stride


def sample_pose(rng: np.random.Generator, difficulty: float) -> Pose:
    """A random pose; difficulty (0 to 1) makes the rare ones more likely."""
    rare = 0.35 + 0.65 * difficulty
    leg_odds = np.array([1.0, 0.9, 0.3, 0.45, 0.12]) * [1, 1, rare, rare, rare]
    legs_kind = str(rng.choice(["standing", "walking", "lunging", "sitting", "crouching"], p=leg_odds / leg_odds.sum()))
    arm_odds = np.array([1.0, 0.4, 0.25, 0.35, 0.7]) * [1, rare, rare, rare, rare]
    arms_kind = str(rng.choice(["hanging", "raised", "akimbo", "forward", "free"], p=arm_odds / arm_odds.sum()))
    if legs_kind == "walking" and rng.random() < 0.7:
        arms_kind = "swinging"
    legs, stride = _legs(rng, legs_kind)
    crouch = legs_kind == "crouching"
    return Pose(
        **_arms(rng, arms_kind, stride),
        **legs,
        lean_forward=float(np.radians(rng.uniform(20, 45) if crouch else rng.normal(3, 6))),
        lean_side=float(np.radians(rng.normal(0, 5))),
        twist=float(np.radians(rng.normal(0, 8))),
        head_yaw=float(np.radians(np.clip(rng.normal(0, 20), -50, 50))),
        head_pitch=float(np.radians(rng.normal(3, 8))),
        seated=legs_kind == "sitting",
    )


@dataclass
class Skeleton:
    """A posed body, in body axes."""

    joints: dict[str, np.ndarray]  # by name, each (3,)
    upper: np.ndarray  # rotation of the upper body, 3 x 3
    head: np.ndarray  # rotation of the head, 3 x 3


def _unit(vector: np.ndarray) -> np.ndarray:
    """A vector (3,) scaled to length 1."""
    return vector / (np.sqrt(vector @ vector) + 1e-9)


def _rotation(axis: int, angle: float) -> np.ndarray:
    """A 3 x 3 rotation matrix about an axis (0 left, 1 up, 2 forward); the angle is in radians."""
    c, s = np.cos(angle), np.sin(angle)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


def _limb_direction(side: int, flexion: float, abduction: float) -> np.ndarray:
    """Direction of a limb that hangs down at rest; side is +1 on the left, -1 on the right."""
    c = np.cos(abduction)
    return np.array([side * np.sin(abduction), -c * np.cos(flexion), c * np.sin(flexion)])


def _bend(direction: np.ndarray, towards: np.ndarray, angle: float) -> np.ndarray:
    """A direction turned towards another one by an angle in radians."""
    across = _unit(towards - (towards @ direction) * direction)
    return np.cos(angle) * direction + np.sin(angle) * across


def _arm_joints(pose: Pose, body: Body, upper: np.ndarray, index: int) -> dict[str, np.ndarray]:
    """Joints of the left (0) or right (1) arm, from the shoulder to the fingertips."""
    side, name = (1, "left") if index == 0 else (-1, "right")
    direction = upper @ _limb_direction(side, pose.arm_flexion[index], pose.arm_abduction[index])
    inward = pose.elbow_inward[index]
    towards = upper @ np.array([-side * inward, 0.45, 1.0])
    forearm = _bend(direction, towards, pose.elbow[index])
    shoulder = upper @ np.array([side * 0.112 * body.width, 0.272, 0.0])
    elbow = shoulder + _UPPER_ARM * direction
    wrist = elbow + _FOREARM * forearm
    return {
        f"{name}_shoulder": shoulder,
        f"{name}_elbow": elbow,
        f"{name}_wrist": wrist,
        f"{name}_finger": wrist + _HAND * forearm,
    }


def _leg_joints(pose: Pose, body: Body, index: int) -> dict[str, np.ndarray]:
    """Joints of the left (0) or right (1) leg, from the hip to the toe."""
    side, name = (1, "left") if index == 0 else (-1, "right")
    direction = _limb_direction(side, pose.thigh_flexion[index], pose.thigh_abduction[index])
    shin = _bend(direction, np.array([0.0, 0.0, -1.0]), pose.knee[index])
    if direction[2] > 0.9:
        shin = _bend(direction, np.array([0.0, -1.0, 0.0]), pose.knee[index])
    toes = _unit(_bend(shin, np.array([side * 0.25, 0.12, 1.0]), np.pi / 2))
    hip = np.array([side * 0.060 * body.width, -0.01, 0.0])
    knee = hip + _THIGH * body.leg_length * direction
    ankle = knee + _SHIN * body.leg_length * shin
    sole = ankle + 0.032 * shin
    return {
        f"{name}_hip": hip,
        f"{name}_knee": knee,
        f"{name}_ankle": ankle,
        f"{name}_heel": sole - 0.022 * toes,
        f"{name}_toe": sole + _FOOT * toes,
    }


def head_point(
        skeleton: Skeleton, body: Body, azimuth: float | np.ndarray, elevation: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points on the head and their normals, each n x 3, in body axes.

    Angles are in degrees; the azimuth runs from the face to the left ear.
    """
    azimuth, elevation = np.broadcast_arrays(np.atleast_1d(np.radians(azimuth)), np.radians(elevation))
    flat = np.cos(elevation)
    normals = np.stack([flat * np.sin(azimuth), np.sin(elevation), flat * np.cos(azimuth)], axis=1)
    points = normals * _HEAD_RADII * body.head_size
    return skeleton.joints["head"] + points @ skeleton.head.T, normals @ skeleton.head.T


def build_skeleton(pose: Pose, body: Body) -> Skeleton:
    """Skeleton of a posed body, in body axes."""
    upper = _rotation(2, pose.lean_side) @ _rotation(0, pose.lean_forward) @ _rotation(1, pose.twist)
    head = upper @ _rotation(1, pose.head_yaw) @ _rotation(0, pose.head_pitch)
    neck = upper @ np.array([0.0, 0.30, 0.0])
    joints = {"neck": neck, "head": neck + upper @ np.array([0, 0.02, 0.008]) + head @ np.array([0, 0.07, 0.012])}
    for index in (0, 1):
        joints |= _arm_joints(pose, body, upper, index)
        joints |= _leg_joints(pose, body, index)
    return Skeleton(joints, upper, head)
