"""``causalvae explore``: serves the page with a slider for every concept."""

from __future__ import annotations

import argparse
import webbrowser

from causalvae_pyro.cli.runs import data_of, load_run
from causalvae_pyro.datasets.registry import load_dataset
from causalvae_pyro.explore.answers import Explorer
from causalvae_pyro.explore.server import Server
from causalvae_pyro.explore.session import Session
from causalvae_pyro.training import resolve_device

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> None:
    """Serves until Ctrl-C.

    Args:
        arguments: Of the command.
    """
    found = load_run(arguments.path, device=resolve_device(arguments.device))
    explorer = Explorer(found, load_dataset(data_of(found, arguments), "test"), samples=arguments.samples)
    explorer.answer(explorer.test_image(0), {})  # the first pass through the networks takes longer than all later ones
    with Server(Session(explorer, arguments.path), getattr(arguments, "port", None)) as server:
        print(f"{server.address} shows {arguments.path}; Ctrl-C ends it", flush=True)
        if arguments.open:
            webbrowser.open(server.address)
        server.serve_forever()
