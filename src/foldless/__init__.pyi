"""Every public name, by the module that it comes from: the table of contents that `__init__.py` serves lazily."""

from .build import (
    build_objective as build_objective,
)
from .build import (
    build_registration as build_registration,
)
from .build import (
    stage_objective as stage_objective,
)
from .crossvalidation import (
    Fold as Fold,
)
from .crossvalidation import (
    compared as compared,
)
from .crossvalidation import (
    folds_of as folds_of,
)
from .crossvalidation import (
    run_fold as run_fold,
)
from .crossvalidation import (
    summarised as summarised,
)
from .cycle import (
    ImageCycle as ImageCycle,
)
from .cycle import (
    OneWay as OneWay,
)
from .cycle import (
    ThreeImages as ThreeImages,
)
from .data.folder import (
    folder_split as folder_split,
)
from .data.images import (
    ImageSet as ImageSet,
)
from .data.images import (
    RandomPairs as RandomPairs,
)
from .data.images import (
    Split as Split,
)
from .data.images import (
    ordered_pairs as ordered_pairs,
)
from .data.mindboggle import (
    prepare_mindboggle as prepare_mindboggle,
)
from .data.mnist import (
    mnist as mnist,
)
from .data.oai import (
    prepare_oai_knees as prepare_oai_knees,
)
from .data.prepare import (
    Preparation as Preparation,
)
from .data.shapes import (
    shapes as shapes,
)
from .data.source import (
    open_source as open_source,
)
from .direct import (
    Direct as Direct,
)
from .direct import (
    register_directly as register_directly,
)
from .errors import (
    InputError as InputError,
)
from .errors import (
    NotFiniteError as NotFiniteError,
)
from .errors import (
    TrainingError as TrainingError,
)
from .evaluation import (
    cartilage_dice as cartilage_dice,
)
from .evaluation import (
    judge_folder as judge_folder,
)
from .evaluation import (
    judge_images as judge_images,
)
from .evaluation import (
    mean_scores as mean_scores,
)
from .grid import (
    Grid as Grid,
)
from .grid import (
    per_axis as per_axis,
)
from .grid import (
    sample as sample,
)
from .grid import (
    sample_labels as sample_labels,
)
from .grid import (
    sample_with_jacobian as sample_with_jacobian,
)
from .halfway import (
    Forces as Forces,
)
from .halfway import (
    register_halfway as register_halfway,
)
from .io import (
    Geometry as Geometry,
)
from .io import (
    Volume as Volume,
)
from .io import (
    apply_warp as apply_warp,
)
from .io import (
    displacement_mm as displacement_mm,
)
from .io import (
    physical_jacobian as physical_jacobian,
)
from .io import (
    read_volume as read_volume,
)
from .io import (
    read_warp as read_warp,
)
from .io import (
    reoriented as reoriented,
)
from .io import (
    resampled as resampled,
)
from .io import (
    sitk_transform as sitk_transform,
)
from .io import (
    write_volume as write_volume,
)
from .io import (
    write_warp as write_warp,
)
from .kernels import (
    native_status as native_status,
)
from .kernels import (
    triton_status as triton_status,
)
from .landmarks import (
    Landmarks as Landmarks,
)
from .machine import (
    Machine as Machine,
)
from .maps import (
    Affine as Affine,
)
from .maps import (
    Composition as Composition,
)
from .maps import (
    ConvergenceError as ConvergenceError,
)
from .maps import (
    Displacement as Displacement,
)
from .maps import (
    Exponential as Exponential,
)
from .maps import (
    Identity as Identity,
)
from .maps import (
    Map as Map,
)
from .maps import (
    compose as compose,
)
from .maps import (
    determinant as determinant,
)
from .maps import (
    exponentiate as exponentiate,
)
from .maps import (
    invert as invert,
)
from .maps import (
    logarithm as logarithm,
)
from .methods import (
    METHODS as METHODS,
)
from .methods import (
    alternating as alternating,
)
from .methods import (
    method_recipe as method_recipe,
)
from .methods import (
    one_by_one as one_by_one,
)
from .methods import (
    planned as planned,
)
from .methods import (
    pooled_by as pooled_by,
)
from .metrics import (
    FOLD_RULES as FOLD_RULES,
)
from .metrics import (
    Certificate as Certificate,
)
from .metrics import (
    certify as certify,
)
from .metrics import (
    certify_field as certify_field,
)
from .metrics import (
    dice as dice,
)
from .metrics import (
    folded as folded,
)
from .metrics import (
    folds as folds,
)
from .metrics import (
    folds_percent as folds_percent,
)
from .metrics import (
    hd95 as hd95,
)
from .metrics import (
    inverse_consistency_error as inverse_consistency_error,
)
from .metrics import (
    jacobian_determinant as jacobian_determinant,
)
from .metrics import (
    mean_dice as mean_dice,
)
from .metrics import (
    ndv_percent as ndv_percent,
)
from .metrics import (
    sdlogj as sdlogj,
)
from .metrics import (
    sdlogj_learn2reg as sdlogj_learn2reg,
)
from .metrics import (
    summary as summary,
)
from .metrics import (
    target_registration_error as target_registration_error,
)
from .model import (
    Model as Model,
)
from .networks import (
    MLP as MLP,
)
from .networks import (
    AffineNet as AffineNet,
)
from .networks import (
    Antisymmetric as Antisymmetric,
)
from .networks import (
    ConvOnly as ConvOnly,
)
from .networks import (
    EncoderDecoder as EncoderDecoder,
)
from .networks import (
    Refinement as Refinement,
)
from .networks import (
    ResidualUNet as ResidualUNet,
)
from .networks import (
    VoxelMorphUNet as VoxelMorphUNet,
)
from .objective import (
    BaseObjective as BaseObjective,
)
from .objective import (
    Objective as Objective,
)
from .objective import (
    Terms as Terms,
)
from .outcome import (
    Outcome as Outcome,
)
from .pairwise import (
    FreeFlow as FreeFlow,
)
from .pairwise import (
    FreeMaps as FreeMaps,
)
from .pairwise import (
    Stiff as Stiff,
)
from .pairwise import (
    flow_steps as flow_steps,
)
from .pairwise import (
    optimise as optimise,
)
from .pairwise import (
    optimise_flow as optimise_flow,
)
from .pairwise import (
    optimise_maps as optimise_maps,
)
from .pairwise import (
    optimise_weights as optimise_weights,
)
from .proofs import (
    Repair as Repair,
)
from .proofs import (
    certify_warp as certify_warp,
)
from .proofs import (
    repair_field as repair_field,
)
from .proofs import (
    repair_warp as repair_warp,
)
from .published import (
    load_published as load_published,
)
from .published import (
    published_registration as published_registration,
)
from .recipe import (
    Recipe as Recipe,
)
from .recipe import (
    Source as Source,
)
from .recipe import (
    Stage as Stage,
)
from .recipe import (
    direct_recipe as direct_recipe,
)
from .recipe import (
    recipe_for as recipe_for,
)
from .registering import (
    REFINING as REFINING,
)
from .registering import (
    Fields as Fields,
)
from .registering import (
    Tuning as Tuning,
)
from .registering import (
    register_volumes as register_volumes,
)
from .registration import (
    Downsample as Downsample,
)
from .registration import (
    Predict as Predict,
)
from .registration import (
    Refine as Refine,
)
from .registration import (
    Registration as Registration,
)
from .registration import (
    TwoStep as TwoStep,
)
from .registration import (
    average_pool as average_pool,
)
from .registration import (
    warp as warp,
)
from .regularity import (
    ICON as ICON,
)
from .regularity import (
    Certified as Certified,
)
from .regularity import (
    Diffusion as Diffusion,
)
from .regularity import (
    GradICON as GradICON,
)
from .regularity import (
    Regularity as Regularity,
)
from .regularity import (
    cycle_consistency as cycle_consistency,
)
from .regularity import (
    diffusion as diffusion,
)
from .regularity import (
    gradient_cycle_consistency as gradient_cycle_consistency,
)
from .regularity import (
    gradient_inverse_consistency as gradient_inverse_consistency,
)
from .regularity import (
    inverse_consistency as inverse_consistency,
)
from .regularity import (
    noisy_inverse_consistency as noisy_inverse_consistency,
)
from .regularity import (
    roughness as roughness,
)
from .regularity import (
    unproven as unproven,
)
from .report import (
    Pair as Pair,
)
from .report import (
    warped_grid_figure as warped_grid_figure,
)
from .report import (
    write_report as write_report,
)
from .similarity import (
    LNCC as LNCC,
)
from .similarity import (
    MINDSSC as MINDSSC,
)
from .similarity import (
    MSE as MSE,
)
from .similarity import (
    NCC as NCC,
)
from .similarity import (
    NMI as NMI,
)
from .similarity import (
    Similarity as Similarity,
)
from .stepping import (
    Provably as Provably,
)
from .tolerance import (
    Tolerance as Tolerance,
)
from .training.loop import (
    train as train,
)
from .training.loop import (
    training_step as training_step,
)
from .weighting import (
    Constant as Constant,
)
from .weighting import (
    HoldBelow as HoldBelow,
)
from .weighting import (
    Ramp as Ramp,
)
from .weighting import (
    Weight as Weight,
)

__version__: str
