"""Networks: two images (batch, channels, *lattice) in, one tensor (batch, dim, *lattice) out; of `AffineNet` a matrix.

What the tensor means (a displacement, a velocity) is decided by `Predict`. Every last layer starts at zero, so that
maps start at the identity. A network computes in the dtype of its images (bfloat16 where that is
fast), but its last layer in the dtype of its parameters: coordinates never pass through bfloat16.
"""

from foldless.networks.affine import AffineNet, Antisymmetric
from foldless.networks.conv_only import ConvOnly
from foldless.networks.encoder_decoder import EncoderDecoder
from foldless.networks.mlp import MLP
from foldless.networks.normalisation import BatchNorm, InstanceNorm, Normalisation
from foldless.networks.refinement import Refinement
from foldless.networks.residual_unet import ResidualUNet
from foldless.networks.voxelmorph import VoxelMorphUNet

__all__ = [
    "MLP",
    "AffineNet",
    "Antisymmetric",
    "BatchNorm",
    "ConvOnly",
    "EncoderDecoder",
    "InstanceNorm",
    "Normalisation",
    "Refinement",
    "ResidualUNet",
    "VoxelMorphUNet",
]
