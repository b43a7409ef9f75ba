"""How far classes of pixels are from overlapping their truth: what mean IoU counts, made smooth."""

from __future__ import annotations

import torch
from torch import Tensor


def jaccard_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """One less the soft IoU, the mean of the classes that a batch holds.

    Rahman and Wang 2016 (Optimizing Intersection-over-Union in Deep Neural Networks for Image
    Segmentation, eq. 3 to 5): I = Σ p·y and U = Σ p + y - p·y, over all pixels of the batch
    together. A class counts as much as another however few its pixels are, as in the measure.

    Args:
        scores: `(batch, classes, height, width)`.
        truth: numbers of classes, `(batch, height, width)`.

    Returns:
        A scalar, 0 to 1.
    """
    classes = scores.shape[1]
    probs = scores.float().softmax(dim=1)
    right = probs.gather(1, truth[:, None]).flatten()
    shared = torch.zeros(classes, device=scores.device).index_add(0, truth.flatten(), right)
    there = torch.bincount(truth.flatten(), minlength=classes)
    either = probs.sum(dim=(0, 2, 3)) + there - shared
    return 1 - (shared / either)[there > 0].mean()
