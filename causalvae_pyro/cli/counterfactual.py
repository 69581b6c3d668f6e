"""``causalvae counterfactual``: counterfactuals of test images, or of images of the user's own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.cli.runs import data_of, load_run
from causalvae_pyro.datasets.celeba_files import eye_places
from causalvae_pyro.datasets.image_files import Points
from causalvae_pyro.datasets.registry import load_dataset
from causalvae_pyro.evaluation.data import check_kinds, has_truth
from causalvae_pyro.explore.images import read_image
from causalvae_pyro.interventions.abduction import abduct_for
from causalvae_pyro.interventions.counterfactuals import counterfactual, encode, predict, reconstruct
from causalvae_pyro.interventions.pixels import FADE, has_scale
from causalvae_pyro.plots import do_label, plot_comparison, save_figure, units_of
from causalvae_pyro.training import resolve_device
from causalvae_pyro.utils.files import check_target, check_writable
from causalvae_pyro.utils.numbers import evenly_spaced
from causalvae_pyro.utils.unseen_pairs import asks_for, pair_text

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Computes and shows counterfactuals.

    Args:
        arguments: Of the command.

    Raises:
        ValueError: If ``--do``, ``--count``, ``--eyes``, ``--pixel-noise`` or ``--fade`` is not as stated in the help.
    """
    found = load_run(arguments.path, device=resolve_device(arguments.device))
    do: dict[str, float | str] = {}
    words = {found.graph.names[k]: known for k, known in getattr(found.model.prior, "words", {}).items()}
    for name, value in (_assignment(text, words) for text in arguments.do):
        if name in do:
            raise ValueError(f"--do: {name!r} is given twice")
        do[name] = value
    if arguments.count < 1:
        raise ValueError(f"--count: got {arguments.count}; must be at least 1")
    kept = _what_is_kept(arguments.pixel_noise, arguments.fade)
    check_target(arguments.out, "--out")
    check_writable(arguments.out.parent, "--out")
    if arguments.eyes is not None and not arguments.file:
        raise ValueError("--eyes: got no file; valid: with --file, of which it says where the eyes are")
    if arguments.file:
        # A decoder of the user's own may not say how large its images are; the data do.
        shape = (
            getattr(found.model.decoder, "image_shape", None) or load_dataset(data_of(found, arguments), "test").images.shape[1:]
        )
        points = _eyes(found, arguments)
        x = torch.stack([read_image(file, shape, points=points) for file in arguments.file])
        rows = _own(found, x, arguments.file, do, kept)
    else:
        rows = _tested(found, load_dataset(data_of(found, arguments), "test"), arguments.count, do, kept)
    save_figure(plot_comparison(rows), arguments.out)
    print(f"wrote {arguments.out}")


def _what_is_kept(share: float | None, fade: float | None) -> dict[str, float | None] | None:
    """Options of :func:`counterfactual`; ``None`` where the user leaves it to the likelihood."""
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"--pixel-noise: got {share}; must lie in [0, 1]")
    if fade is not None and not (fade > 0 and share != 0):
        raise ValueError(f"--fade: got {fade}; must be > 0, and left out with --pixel-noise 0")
    return None if share is None and fade is None else {"pixel_noise": 1.0 if share is None else share, "fade": fade}


def _eyes(found: Run, arguments: argparse.Namespace) -> tuple[Points, Points] | None:
    """The eyes of the user's face, and where they lie in the images that the run was trained on."""
    if arguments.eyes is None:
        return None
    if len(arguments.file) > 1:
        raise ValueError(f"--eyes: got {len(arguments.file)} files; valid: one, of which it says where the eyes are")
    if not arguments.eyes[0] < arguments.eyes[2]:
        raise ValueError(
            f"--eyes: got {' '.join(f'{v:g}' for v in arguments.eyes)}; the left one first, or the face is upside down"
        )
    data = found.config.get("data", {})
    if data.get("name") != "celeba":
        raise ValueError(
            f"--eyes: got data {data.get('name')!r}; valid: a run on 'celeba', whose faces are aligned by their eyes"
        )
    return (arguments.eyes[:2], arguments.eyes[2:]), eye_places(data.get("crop", 128))


def _own(found: Run, x: Tensor, files: Sequence[Path], do: dict[str, Any], kept: Any) -> list[tuple[str, Tensor]]:
    """Rows of images without labels."""
    with torch.no_grad():
        read = found.model.prior.to_labels(encode(found.model, found.guide, x)).cpu()
    for file, labels in zip(files, read.tolist(), strict=True):
        print(f"{file.name}: read as {', '.join(f'{n} {u:.3g}' for n, u in zip(found.graph.names, labels, strict=True))}")
    return [("factual", x), *_drawn(found, x, do, None, kept, found.units)]


def _tested(found: Run, data: Any, count: int, do: dict[str, Any], kept: Any) -> list[tuple[str, Tensor]]:
    """Rows of test images, with the true ones where there are some."""
    check_kinds(found, data)
    chosen = evenly_spaced(min(count, len(data)), len(data))
    x, labels = data.images[chosen], data.labels[chosen]
    # The run may hold the concepts in another order than the data, and more of them.
    handed = labels.new_full((len(labels), len(found.graph)), torch.nan)
    handed[:, [found.graph.index(name) for name in data.graph.names]] = labels
    rows = [("factual", x), *_drawn(found, x, do, handed, kept, units_of(data) or found.units)]
    truth = _truth(data, chosen, labels, do)
    if truth is not None:
        true_labels, true = truth
        rows.append(("true", true))
        for i, before, after in zip(chosen.tolist(), labels.tolist(), true_labels.tolist(), strict=True):
            pairs = (f"{n} {a:.3g} -> {b:.3g}" for n, a, b in zip(data.graph.names, before, after, strict=True))
            print(f"image {i}: {', '.join(pairs)}")
    return rows


def _drawn(
    found: Run, x: Tensor, do: dict[str, Any], labels: Tensor | None, kept: Any, units: Mapping[str, str]
) -> list[tuple[str, Tensor]]:
    """Rows of counterfactuals, with a word on those of a kind that hardly any training image was.

    Where they keep the image's own detail, the reconstruction shows what the model itself sees.
    """
    shown = []
    scale = _has_scale(found, x[:1], None if labels is None else labels[:1])
    if kept is None:
        kept = {"pixel_noise": 1.0, "fade": FADE} if scale else {}
        if scale:
            print("the image's own detail is kept where nothing changes (--pixel-noise 0: the decoder's mean alone)")
    elif kept["pixel_noise"] and not scale:
        raise ValueError(
            f"--pixel-noise: got {kept['pixel_noise']:g}; must be 0, or left out (as --fade): the likelihood has no scale"
        )
    if kept.get("pixel_noise"):
        shown.append(("reconstruction\nmodel", reconstruct(found.model, found.guide, x, labels).cpu()))
    images, z = counterfactual(found.model, found.guide, x, do, labels, **kept, return_latents=True)
    if pairs := found.config.get("unseen", ()):
        with torch.no_grad():
            asked = asks_for(found.model.prior.to_labels(z).cpu(), found.graph.names, pairs).sum(0).tolist()
        for pair, count in zip(pairs, asked, strict=True):
            if count:
                print(f"{count} of {len(x)} have {pair_text(pair)}, as hardly any training image: nothing taught how that looks")
    return [*shown, (f"{do_label(do, units)}\nmodel", images.cpu())]


def _has_scale(found: Run, x: Tensor, labels: Tensor | None) -> bool:
    """Whether the model's images have noise of their own that can be kept."""
    noise = abduct_for(found.model, found.guide, x, labels)
    return has_scale(predict(found.model, noise, pixel_noise=False).nodes["x"]["fn"])


def _truth(data: Any, chosen: Tensor, labels: Tensor, do: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """True labels and images, where there are some."""
    if not has_truth(data):
        return None
    if not hasattr(data, "counterfactual_targets"):
        return data.counterfactual(labels, do)
    try:
        # Photographs, which exist for the labels of other images only.
        return data.counterfactual(chosen, do)
    except ValueError as error:
        print(f"without the truth ({error})")
        return None


def _assignment(text: str, words: Mapping[str, Sequence[str]]) -> tuple[str, float | str]:
    """A concept and its value: a number, or a word where the concept has such."""
    name, _, value = (part.strip() for part in text.partition("="))
    if value in words.get(name, ()):
        return name, value
    try:
        return name, float(value)
    except ValueError:
        valid = f"; its kinds are {', '.join(words[name])}" if name in words else ""
        raise ValueError(f"--do: got {text!r}; expected CONCEPT=NUMBER, e.g. light=12{valid}") from None
