"""The sections of the score card: what the model makes of test images, against labels and true counterfactuals."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from causalvae_pyro.evaluation.calibration import calibration_scores
from causalvae_pyro.evaluation.noise_leak import noise_leak
from causalvae_pyro.evaluation.predicted import predicted_scores
from causalvae_pyro.evaluation.representation import representation_section
from causalvae_pyro.evaluation.scored_images import ScoredImages
from causalvae_pyro.evaluation.true_counterfactuals import counterfactual_section
from causalvae_pyro.metrics import FID, PhotographPredictor, composition, effectiveness, lpips, minimality, reversibility
from causalvae_pyro.utils.numbers import evenly_spaced

__all__ = ["Scorer"]

# Repeated and undone interventions were half of the time of all scores; of so many images their mean errors are known to a few
# percent.
_AXIOMS = 200
# Of so many images a coverage of 95 % is known to a percent.
_CALIBRATION = 500


class Scorer(ScoredImages):
    """The score card's sections, a method each."""

    def representation(self) -> dict[str, Any]:
        """Reconstruction, concepts and graph."""
        return representation_section(self)

    def axioms(self, weights: str | os.PathLike | None = None) -> dict[str, Any]:
        """Composition and reversibility; with the weights of a backbone LPIPS as well."""
        some = evenly_spaced(min(_AXIOMS, len(self.x)), len(self.x))
        x, labels, handed = self.x[some], self.labels[some], self.handed[some]

        def set_to(do: dict[str, Tensor], handed: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda x: self.counterfactual(x, do, handed)[0].clamp(0, 1)

        def apart(images: Tensor, x: Tensor) -> Tensor:
            found = [(images.double() - x.double()).abs().mean()]
            return torch.stack(found if weights is None else [*found, lpips(images.clamp(0, 1), x, weights).double().mean()])

        drift = composition(set_to({}, handed), x, distance=apart).T.tolist()
        result: dict[str, Any] = dict(zip(("composition", "composition_lpips"), drift, strict=False))
        reversal = {}
        for column, name in enumerate(self.data.graph.names):
            do = {name: self.values(name)[some]}
            images, z = self.counterfactual(x, do, handed)
            images = images.clamp(0, 1)
            # The counterfactual image is abducted with its own labels: with the factual ones a guide that uses labels would
            # undo the intervention by itself. Effects follow the cause in both directions.
            undo = set_to({name: labels[:, column]}, self.hand(self.intended(do, z, some)))
            reversal[name] = reversibility(_always(images), undo, x).item()
        return result | {"reversibility": reversal}

    def calibration(self) -> dict[str, Any]:
        """``calibration``: see :func:`~causalvae_pyro.evaluation.calibration.calibration_scores`; nothing without numbers."""
        some = evenly_spaced(min(_CALIBRATION, len(self.x)), len(self.x))
        # Of a category there is no interval.
        names = [name for name, kinds in zip(self.data.graph.names, self.kinds, strict=True) if not kinds]
        if not names:
            return {}
        return {"calibration": calibration_scores(self.run, self.x[some], self.handed[some], names, seed=self.seed)}

    def noise_leak(self) -> dict[str, Any]:
        """``noise_leak``: see :func:`~causalvae_pyro.evaluation.noise_leak.noise_leak`; nothing without ``eps_x``."""
        return {"noise_leak": found} if (found := noise_leak(self)) else {}

    def predicted(self, predictor: PhotographPredictor) -> dict[str, Any]:
        """What an independent predictor reads; see :func:`~causalvae_pyro.evaluation.predicted.predicted_scores`."""
        found = {}
        for name in self.data.graph.names:
            values = self.values(name)
            images, z = self.counterfactual(self.x, {name: values}, self.handed)
            found[name] = values, images, self.intended({name: values}, z)
        own = self.data.graph.names
        unseen = [pair for pair in self.run.config.get("unseen", ()) if {*pair[::2]} <= {*own}]
        # With what pixel noise the others keep.
        before = self.counterfactual(self.x, {}, self.handed)[0] if self.pixel_noise else self.reconstruction
        return predicted_scores(predictor, self.data.graph, self.x, self.labels, before.clamp(0, 1), found, unseen)

    def effectiveness(self, predictor: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Errors of the labels that an independent predictor infers from counterfactuals."""
        names = self.data.graph.names

        def score(images: Tensor, intended: Tensor) -> dict[str, float]:
            read = predictor(images).cpu()
            errors = effectiveness(read, intended.to(torch.float32)).tolist()
            # Of a category the share of the images in which another kind is read.
            wrong = (read.round() != intended).double().mean(0).tolist()
            return {name: w if k else e for name, e, w, k in zip(names, errors, wrong, self.kinds, strict=True)}

        result: dict[str, Any] = {"factual": score(self.x, self.labels), "do": {}}
        for name in names:
            do = {name: self.values(name)}
            images, z = self.counterfactual(self.x, do, self.handed)
            # Where nobody knows the truth: what the model itself says follows from the factual labels.
            intended = self.intended(do, z)
            result["do"][name] = score(images.clamp(0, 1), intended)
        return result

    def minimality(self, features: Callable[[Tensor], Tensor]) -> dict[str, dict[str, float]]:
        """Whether counterfactuals, and images left alone, change more, or less, than the value set asks for."""
        result: dict[str, dict[str, float]] = {"minimality": {}, "minimality_left_alone": {}}
        factual = features(self.x).cpu()
        for column, name in enumerate(self.data.graph.names):
            values = self.values(name)
            images, _ = self.counterfactual(self.x, {name: values}, self.handed)
            found = features(images.clamp(0, 1)).cpu()
            before = self.labels[:, column].contiguous()
            before, values = (before.long(), values.long()) if self.kinds[column] else (before, values)
            for key, images_of in zip(result, (found, factual), strict=True):
                result[key][name] = minimality(factual, images_of, before, values)
        return result

    def fid(self, features: int | Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Fréchet distances from the test images."""
        # InceptionV3 runs where the model does; a function is shown what a judge is.
        device = torch.device("cpu") if callable(features) else self.run.model.zero.device
        distance = FID(self.x.to(device), feature=features)
        result: dict[str, Any] = {"reconstructions": distance(self.reconstruction.clamp(0, 1)), "do": {}}
        for name in self.data.graph.names:
            images, _ = self.counterfactual(self.x, {name: self.values(name)}, self.handed)
            result["do"][name] = distance(images.clamp(0, 1))
        return result

    def counterfactuals(self, pairs: bool) -> dict[str, Any]:
        """Scores against the true counterfactuals, of interventions on pairs of concepts too if so wanted."""
        return counterfactual_section(self, pairs)


def _always(images: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: images
