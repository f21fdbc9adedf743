"""What the autoencoder is fitted for: to rebuild the picture, and to put views of one picture side by side.

Reconstruction alone spends the latent's variance on what takes many pixels (brightness, creases, place); neighbours in
such a space share a silhouette rather than a meaning. The contrastive term makes views of one picture nearer
to each other than to other pictures, and so moves the variance to what augmentation leaves alone. No label is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from embedstore.models.augment import augment
from embedstore.models.autoencoder import Autoencoder


@dataclass(frozen=True, slots=True)
class Objective:
    """Weights of the terms.

    Attributes:
        reconstruction: of the mean squared error, pixels in [0, 1].
        contrast: of the contrastive term; 0 is a plain autoencoder, and skips the views.
        temperature: of the contrastive term's softmax over cosine similarities.
        length: of the term that keeps latents near the length sqrt(d), so that Euclidean neighbours, which are what a
            search finds, are those that the contrastive term's cosines have put together.
        vary: share of the pictures that are replaced by a view of themselves before anything else, so that a small set
            isn't learnt by heart.
    """

    reconstruction: float = 100.0
    contrast: float = 0.8
    temperature: float = 0.2
    length: float = 0.2
    vary: float = 0.0


FEW = 2000  # pictures
#: For fewer pictures than that. Measured on 100 of Fashion-MNIST: error of unseen pictures 0.0130, with the objective
#: of large sets 0.0163 and rising from the start, PCA 0.0155; on 1,000: 0.0106 and 0.0113.
FOR_FEW = Objective(contrast=0.2, vary=0.8)


def loss(
    model: Autoencoder, pictures: Tensor, objective: Objective, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The loss of one batch (b, c, h, w) and its mean squared error, for the reader.

    One view of the contrastive pair is the picture itself: it has to be encoded for the reconstruction
    anyway, so that the pair costs two encodings instead of three.
    """
    if objective.vary > 0:
        chosen = torch.rand(len(pictures), 1, 1, 1, generator=generator) < objective.vary
        pictures = torch.where(chosen.to(pictures.device), augment(pictures, generator), pictures)
    if objective.contrast == 0 or len(pictures) < 2:
        error = F.mse_loss(model(pictures), pictures)
        return objective.reconstruction * error, error.detach()
    views = torch.cat([pictures, augment(pictures, generator)]).contiguous(memory_format=torch.channels_last)
    latents, others = model.encode(views).chunk(2)  # (b, d) each
    error = F.mse_loss(model.decode(latents), pictures)
    total = (
        objective.reconstruction * error
        + objective.contrast * contrast(latents, others, objective.temperature)
        + objective.length * (latents.square().mean(dim=1) - 1).square().mean()
    )
    return total, error.detach()


def contrast(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """InfoNCE between two views (b, d) of a batch, both ways, over cosine similarities (van den Oord et al. 2018)."""
    logits = F.normalize(a) @ F.normalize(b).T / temperature  # (b, b)
    same = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
