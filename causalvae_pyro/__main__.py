"""``python -m causalvae_pyro`` is the ``causalvae`` command."""

import sys

from causalvae_pyro.cli import main

if __name__ == "__main__":
    sys.exit(main())
