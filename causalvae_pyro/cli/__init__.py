"""The ``causalvae`` command."""

from causalvae_pyro.cli.main import main

__all__ = ["main"]
