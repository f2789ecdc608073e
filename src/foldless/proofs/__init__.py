"""What is proven of the fields that are written, and how they are made provable."""

from foldless.proofs.after import deformation
from foldless.proofs.home import Homing, brought_home, largest_inverse_error
from foldless.proofs.repair import MARGIN, Repair, repair_field
from foldless.proofs.warps import care_for, certificate_scores, certify_voxel_field, certify_warp, repair_warp

__all__ = [
    "MARGIN",
    "Homing",
    "Repair",
    "brought_home",
    "care_for",
    "certificate_scores",
    "certify_voxel_field",
    "certify_warp",
    "deformation",
    "largest_inverse_error",
    "repair_field",
    "repair_warp",
]
