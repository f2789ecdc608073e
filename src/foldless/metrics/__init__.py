"""Scores of a finished registration: overlap, folds, smoothness, inverse consistency, landmarks.

A score knows nothing of what was optimised, carries no gradient and takes displacement fields in voxels of their own
lattice, (batch, dim, *lattice), components in array-axis order: the map is `x + field(x)` on voxel indices. Halves
are judged in float32.

A fold count means nothing without the rule that found the folds:

============== ================================= ================ ===== ========================================
rule           determinants of a place           places judged    folds used by
============== ================================= ================ ===== ========================================
`forward`      one: one corner of each cell      (n - 1)^dim      < 0   both papers (ICON; Kuang & Schmah)
`central`      one: `np.gradient`                n^dim            < 0   VoxelMorph, TransMorph, older leaderboards
`any_of_eight` 2^dim: all one-sided differences  (n - 2)^dim      <= 0  Liu et al. 2024
`ten`          3-D: the eight and J1*, J2*       (n - 2)^dim      <= 0  Liu et al. 2024; NDV, LUMIR
============== ================================= ================ ===== ========================================

On request, in 3-D: `kuang_legacy`, which is `forward` with one wrong term, as Kuang's code had it until 2020. Where a
field hardly folds it finds more than there is, so it is for comparing with that paper's Table 1 only. Alone among the
rules it depends on the order of the axes: ours are (z, y, x), the authors' the file's, and theirs are the ones judged.

Central differences do not see the voxel itself and miss about three quarters of the folded ones. The two extra
determinants exist in 3-D only. A square cut along either diagonal falls into triangles that are one-sided differences
at one of its corners, so in 2-D the four one-sided determinants suffice; a cube cut into five tetrahedra has four of
that kind and a central one that is not, and it can be cut so in two ways:

    J1*(x) = det[phi(x-ex-ey) - phi(x), phi(x-ex-ez) - phi(x), phi(x-ey-ez) - phi(x)]
    J2*(x) = det[phi(x+ex+ey) - phi(x), phi(x+ey+ez) - phi(x), phi(x+ex+ez) - phi(x)]

both 2 at the identity. In 1-D and 2-D `ten` is therefore the same as `any_of_eight`, which has 2 and 4 determinants
there.

Liu et al. 2024: "On finite difference Jacobian computation in deformable image registration", IJCV; arXiv 2212.06060.
"""

from foldless.metrics.certificate import Certificate, certify, certify_field, digest_of
from foldless.metrics.jacobian import (
    FOLD_RULES,
    folded,
    folds,
    folds_percent,
    jacobian_determinant,
    ndv_percent,
    sdlogj,
    sdlogj_learn2reg,
)
from foldless.metrics.labels import dice, hd95, mean_dice
from foldless.metrics.points import inverse_consistency_error, summary, target_registration_error

__all__ = [
    "FOLD_RULES",
    "Certificate",
    "certify",
    "certify_field",
    "dice",
    "digest_of",
    "folded",
    "folds",
    "folds_percent",
    "hd95",
    "inverse_consistency_error",
    "jacobian_determinant",
    "mean_dice",
    "ndv_percent",
    "sdlogj",
    "sdlogj_learn2reg",
    "summary",
    "target_registration_error",
]
