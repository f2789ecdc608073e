"""Images and transforms on disk; the only place that knows of LPS, spacing and axis orders."""

from foldless.io.fields import inverse_consistency_of_files, physical_jacobian, voxel_displacement
from foldless.io.formats import FORMATS, Spaces, for_name, read_transform, recognised, write_transform
from foldless.io.geometry import Geometry, centred_lattice, spanning_lattice
from foldless.io.learn2reg import read_voxel_displacement
from foldless.io.pulling import Interpolation, Pulling, rounded
from foldless.io.sources import Source, read_source, write_like
from foldless.io.stored import check_format, read_geometry, stored_dtype
from foldless.io.transforms import (
    apply_warp,
    displacement_mm,
    opening_lines,
    read_warp,
    sitk_transform,
    write_warp,
)
from foldless.io.volumes import (
    Volume,
    check_overlap,
    describe_mismatch,
    like,
    on_lattice_of,
    read_beside,
    read_volume,
    reoriented,
    resampled,
    write_volume,
)
from foldless.io.world import Linear, Spline, Transform, Warped

__all__ = [
    "FORMATS",
    "Geometry",
    "Interpolation",
    "Linear",
    "Pulling",
    "Source",
    "Spaces",
    "Spline",
    "Transform",
    "Volume",
    "Warped",
    "apply_warp",
    "centred_lattice",
    "check_format",
    "check_overlap",
    "describe_mismatch",
    "displacement_mm",
    "for_name",
    "inverse_consistency_of_files",
    "like",
    "on_lattice_of",
    "opening_lines",
    "physical_jacobian",
    "read_beside",
    "read_geometry",
    "read_source",
    "read_transform",
    "read_volume",
    "read_voxel_displacement",
    "read_warp",
    "recognised",
    "reoriented",
    "resampled",
    "rounded",
    "sitk_transform",
    "spanning_lattice",
    "stored_dtype",
    "voxel_displacement",
    "write_like",
    "write_transform",
    "write_volume",
    "write_warp",
]
