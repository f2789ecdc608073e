"""Where two scans lie to each other: rigid to affine transforms in world millimetres, found from anywhere."""

from foldless.pose.find import Found, Freedom, find_pose, in_order, parts
from foldless.pose.lattices import shared_lattices
from foldless.pose.rigid import Moves, Pose
from foldless.pose.views import Scan
from foldless.pose.written import as_itk, as_linear, displacement_of, laid, pose_of

__all__ = [
    "Found",
    "Freedom",
    "Moves",
    "Pose",
    "Scan",
    "as_itk",
    "as_linear",
    "displacement_of",
    "find_pose",
    "in_order",
    "laid",
    "parts",
    "pose_of",
    "shared_lattices",
]
