"""Pairs of prepared images are judged in the direction they are named in."""

import numpy as np
import torch
from samples import SMALL, CentreOfMass, blob

from foldless.data.images import ImageSet
from foldless.data.prepare import Preparation
from foldless.evaluation import judge_images
from foldless.model import Model


def test_the_moving_image_is_carried_onto_the_fixed_one():
    one = torch.from_numpy(np.pad(blob((12, 14), 3), 5))
    labels = torch.stack([one, torch.roll(one, 2, 1)]).int()
    images = ImageSet(labels[:, None].float(), ("a", "b"), (1.0, 1.0), labels)
    model = Model(CentreOfMass(), SMALL, Preparation(images.lattice, (1.0, 1.0)))
    for judged in judge_images(model, images, [(0, 1), (1, 0)]):
        assert judged.scores["dice"] > 0.99 > 0.9 > judged.scores["dice_before"]
        assert judged.scores["similarity_after"] < 1e-6 < judged.scores["similarity_before"]
        assert judged.scores["inverse_consistency_voxels"]["max"] < 1e-3
