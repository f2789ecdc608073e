"""Where two scans lie to each other: rigid to affine transforms in world millimetres, found from anywhere."""

from foldless.pose.find import Found, Freedom, find_pose, parts
from foldless.pose.rigid import Moves, Pose
from foldless.pose.views import Scan
from foldless.pose.written import as_itk, laid

__all__ = ["Found", "Freedom", "Moves", "Pose", "Scan", "as_itk", "find_pose", "laid", "parts"]
