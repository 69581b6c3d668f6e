"""Who judges the images of ``benchmarks/protocol.py``: one network for each attribute, trained on real images alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from protocol_methods import rescale
from torch import Tensor, nn
from torchvision.transforms import RandomAffine

from causalvae_pyro.metrics import ImageVAE, Predictor
from causalvae_pyro.networks import RandomBrightness, RandomSymmetry, RandomView

__all__ = ["Judges", "digit_judges", "face_judges"]

# Of a judge's features those that are pooled over positions: so many have a covariance that the test images determine.
_POOLED = 128


@dataclass
class Judges:
    """What judges, by attribute, and the network whose posteriors tell how far images are apart.

    Attributes:
        predictors: By attribute: from images to what is read, ``[N]``.
        networks: The networks, by name, for the file.
        features: From images to the features of the Frechet distance.
        posterior: From images to those of the latent divergence.
        also: By attribute another reading of it, by its definition.
    """

    predictors: dict[str, Callable[[Tensor], Tensor]]
    networks: nn.ModuleDict
    features: Callable[[Tensor], Tensor]
    posterior: Callable[[Tensor], Tensor]
    also: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def load_or_train(self, file: Path, train: Callable[[nn.ModuleDict], None]) -> None:
        """The weights of an earlier call, or those of a training, which are saved."""
        if not file.is_file():
            train(self.networks)
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(self.networks.state_dict(), part := file.with_suffix(".part"))
            part.replace(file)
        # Also right after training: what is scored never depends on where the weights came from.
        self.networks.load_state_dict(torch.load(file, weights_only=True))
        self.networks.eval()


def digit_judges(images: Tensor, labels: Tensor, epochs: int, seed: int, file: Path) -> Judges:
    """Thickness, intensity and digit, each by a network of its own that sees the image alone.

    In the released code of Melistas et al. the judge of the thickness is also given the intensity meant, and the intensity
    goes through a sigmoid. Here it does not, and the judges' own errors are the scores of the real test images. In real images
    brightness and thickness tell each other: the judges see random brightness, the intensity's label changed with it. What is
    measured takes twice the epochs, and is the mean of the readings of an image turned and mirrored in eight ways.
    """
    from causalvae_pyro.datasets import MorphoMNIST

    torch.manual_seed(seed + 1)
    shape = tuple(images.shape[1:])
    thickness, intensity, digit = Predictor(shape, 1), Predictor(shape, 1), Predictor(shape, 10, classify=True)
    vae = ImageVAE(shape)

    def train(_: nn.ModuleDict) -> None:
        symmetry, turn = RandomSymmetry(), RandomAffine(12, translate=(0.05, 0.05), scale=(0.9, 1.1), shear=8)
        thickness.fit(images, labels[:, :1], epochs=2 * epochs, augment=nn.Sequential(RandomBrightness(), symmetry), seed=seed)
        intensity.fit(images, labels[:, 1:2], epochs=2 * epochs, augment=symmetry, augment_pairs=rescale, seed=seed)
        digit.fit(images, labels[:, 2].long(), epochs=epochs, augment=nn.Sequential(RandomBrightness(), turn), seed=seed)
        vae.fit(images, epochs=epochs, seed=seed)

    judges = Judges(
        {
            "thickness": lambda x: _in_all_views(thickness, x),
            "intensity": lambda x: _in_all_views(intensity, x),
            "digit": digit.predict,
        },
        nn.ModuleDict({"thickness": thickness, "intensity": intensity, "digit": digit, "vae": vae}),
        lambda x: digit.features(x)[:, :_POOLED],
        vae.posterior,
        {"intensity": MorphoMNIST.measure_intensity},
    )
    judges.load_or_train(file, train)
    return judges


def face_judges(images: Tensor, labels: Tensor, names: Sequence[str], epochs: int, seed: int, file: Path) -> Judges:
    """A network for each attribute of a face."""
    torch.manual_seed(seed + 1)
    shape = tuple(images.shape[1:])
    readers = {name: Predictor(shape, 2, classify=True) for name in names}
    vae = ImageVAE(shape)

    def train(_: nn.ModuleDict) -> None:
        for column, network in enumerate(readers.values()):
            network.fit(images, labels[:, column].long(), epochs=epochs, augment=RandomView(), seed=seed)
        vae.fit(images, epochs=epochs, seed=seed)

    first = next(iter(readers.values()))
    judges = Judges(
        {name: network.predict for name, network in readers.items()},
        nn.ModuleDict({**readers, "vae": vae}),
        lambda x: first.features(x)[:, :_POOLED],
        vae.posterior,
    )
    judges.load_or_train(file, train)
    return judges


def _in_all_views(predictor: Predictor, x: Tensor) -> Tensor:
    """The mean reading ``[N]`` of square images in the eight ways to turn and mirror them."""
    views = [
        view for turned in (x, x.transpose(-2, -1)) for view in (turned, turned.flip(-1), turned.flip(-2), turned.flip((-2, -1)))
    ]
    return torch.stack([predictor.predict(view)[:, 0] for view in views]).mean(0)
