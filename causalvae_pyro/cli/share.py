"""``causalvae share``: a folder for others with a model card, or the same on the Hugging Face Hub."""

from __future__ import annotations

import argparse
from typing import Any

from causalvae_pyro.checkpoints.hub import push_to_hub, save_pretrained
from causalvae_pyro.checkpoints.pretrained import run_directory
from causalvae_pyro.checkpoints.runs import HISTORY, are_scores_of
from causalvae_pyro.cli.runs import load_run, read_scores
from causalvae_pyro.datasets.registry import SIMULATORS

__all__ = ["run"]

#: Pictures of a run that its model card shows.
SHARED = ("graph.png", "counterfactuals.png", "scores.png")
#: Those of them in which test images can be seen.
PHOTOGRAPHS = ("counterfactuals.png",)


def run(arguments: argparse.Namespace) -> None:
    """Writes the folder, or uploads it.

    Args:
        arguments: Of the command.

    Raises:
        ValueError: If ``--to`` is the run itself or another one, or holds a picture that is to be left out; or the weights hold
            pictures of training images and ``--pictures`` is not given.
    """
    directory = run_directory(arguments.path)
    found, scores = load_run(arguments.path), read_scores(directory / "metrics.json")
    pictures = [path for name in SHARED if (path := directory / name).is_file()]
    if scores is not None and not are_scores_of(found, scores):
        # As a training that was stopped leaves them, over those of an earlier one.
        print("scores and pictures, which are of other weights: left out (causalvae evaluate makes them anew)", flush=True)
        scores, pictures = None, []
    drawn = found.data.get("name") in SIMULATORS
    included = drawn if arguments.pictures is None else arguments.pictures
    decoder = found.model.decoder
    if not included and getattr(decoder, "holds_training_images", False):
        raise ValueError(f"the weights of a {type(decoder).__name__} hold pictures of training images; --pictures shares them")
    telling = [path.name for path in pictures if path.name in PHOTOGRAPHS]
    withheld = [] if included else telling
    options: dict[str, Any] = {"scores": scores, "pictures": [path for path in pictures if path.name not in withheld]}
    if arguments.to is not None:
        if arguments.to.resolve() == directory.resolve():
            raise ValueError(f"--to: got {arguments.to}, which is the run itself")
        if (arguments.to / HISTORY).exists():
            raise ValueError(f"--to: got {arguments.to}, which is another run; give a folder for what is shared")
        for name in withheld:
            if (arguments.to / name).exists():
                raise ValueError(f"--to: {arguments.to} holds {name}, which is to be left out; remove it, or give --pictures")
    if telling and not drawn:
        done = "included" if included else "left out (--pictures includes it)"
        print(f"{', '.join(telling)}, which shows test images: {done}", flush=True)
    if arguments.to is None:
        print(push_to_hub(found, arguments.repository, private=arguments.private, **options))
        return
    save_pretrained(found, arguments.to, **options)
    print(f"wrote {arguments.to}")
