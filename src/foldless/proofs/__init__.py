"""What is proven of the fields that are written, and how they are made provable."""

from foldless.proofs.repair import Repair, repair_field
from foldless.proofs.warps import certify_warp, repair_warp

__all__ = ["Repair", "certify_warp", "repair_field", "repair_warp"]
