"""``causalvae share``: a folder for others with a model card, or the same on the Hugging Face Hub."""

from __future__ import annotations

import argparse
from typing import Any

from causalvae_pyro.checkpoints.hub import push_to_hub, save_pretrained
from causalvae_pyro.cli.runs import load_run, read_scores

__all__ = ["run"]

#: Pictures of a run that its model card shows.
SHARED = ("graph.png", "counterfactuals.png", "scores.png")


def run(arguments: argparse.Namespace) -> None:
    """Writes the folder, or uploads it.

    Args:
        arguments: Of the command.

    Raises:
        ValueError: If ``--to`` is the run itself.
    """
    found = load_run(arguments.path)
    options: dict[str, Any] = {
        "scores": read_scores(arguments.path / "metrics.json"),
        "pictures": [path for name in SHARED if (path := arguments.path / name).is_file()],
    }
    if arguments.to is None:
        print(push_to_hub(found, arguments.repository, private=arguments.private, **options))
        return
    if arguments.to.resolve() == arguments.path.resolve():
        raise ValueError(f"--to: got {arguments.to}, which is the run itself")
    save_pretrained(found, arguments.to, **options)
    print(f"wrote {arguments.to}")
