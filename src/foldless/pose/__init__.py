"""Where two scans lie to each other: rigid to affine transforms in world millimetres, found from anywhere."""

from foldless.pose.find import Found, Freedom, find_pose
from foldless.pose.rigid import Moves, Pose
from foldless.pose.views import Scan

__all__ = ["Found", "Freedom", "Moves", "Pose", "Scan", "find_pose"]
