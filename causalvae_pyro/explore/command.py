"""``causalvae explore``."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path
from typing import Any

from causalvae_pyro.checkpoints.runs import load
from causalvae_pyro.datasets.registry import load_dataset
from causalvae_pyro.explore.answers import Explorer
from causalvae_pyro.explore.server import PORT, Server
from causalvae_pyro.explore.session import Session
from causalvae_pyro.training import resolve_device

__all__ = ["add_parser"]


def add_parser(commands: Any, formatter: Any) -> argparse.ArgumentParser:
    """Adds the command to those of ``causalvae``.

    Args:
        commands: What ``ArgumentParser.add_subparsers`` gave.
        formatter: Class that formats the help.
    """
    parser = commands.add_parser(
        "explore",
        help="open a page with a slider for every concept",
        description="Serves a page on this machine, to no other: pick a test image or drop one of your own, drag the concepts' "
        "sliders, and see the counterfactual beside the image and, for simulators, beside the true one. Ctrl-C ends it.",
        formatter_class=formatter,
    )
    parser.add_argument("path", type=Path, metavar="RUN", help="directory of the run")
    parser.add_argument(
        "--port", type=int, default=argparse.SUPPRESS, help=f"of the page (default: {PORT}, or a free one where that is taken)"
    )
    parser.add_argument("--samples", type=int, default=16, help="posterior samples behind a standard deviation")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.set_defaults(run=_explore)
    return parser


def _explore(arguments: argparse.Namespace) -> None:
    run = load(arguments.path, device=resolve_device(arguments.device))
    explorer = Explorer(run, load_dataset(run.config.get("data"), "test"), samples=arguments.samples)
    explorer.answer(explorer.test_image(0), {})  # the first pass through the networks takes longer than all later ones
    with Server(Session(explorer, arguments.path), getattr(arguments, "port", None)) as server:
        print(f"{server.address} shows {arguments.path}; Ctrl-C ends it", flush=True)
        if arguments.open:
            webbrowser.open(server.address)
        server.serve_forever()
