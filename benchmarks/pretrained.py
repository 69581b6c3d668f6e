"""Makes the runs that come with the package: the default command, and of what it leaves configuration, weights and scores.

python benchmarks/pretrained.py pendulum flow
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import causalvae_pyro
from causalvae_pyro.checkpoints.pretrained import PRETRAINED

FILES = ("config.json", "model.safetensors", "metrics.json")
PACKAGED = Path(causalvae_pyro.__file__).parent / "pretrained"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=PRETRAINED, metavar="NAME", help=f"default: {' '.join(PRETRAINED)}")
    parser.add_argument("--runs", type=Path, default=Path("runs/pretrained"), help="where the runs are made")
    parser.add_argument("--keep", action="store_true", help="take the runs that are there already")
    args = parser.parse_args()
    if unknown := set(args.names) - set(PRETRAINED):
        parser.error(f"NAME: got {', '.join(sorted(unknown))}; valid: {', '.join(PRETRAINED)}")
    for name in args.names:
        run = args.runs / name
        if not (args.keep and (run / "metrics.json").is_file()):
            command = [sys.executable, "-m", "causalvae_pyro", "train", name, "--device", "cpu", "--out", str(run), "--overwrite"]
            subprocess.run(command, check=True)
        (PACKAGED / name).mkdir(parents=True, exist_ok=True)
        for file in FILES:
            shutil.copyfile(run / file, PACKAGED / name / file)
        print(f"{PACKAGED / name}: {sum((PACKAGED / name / file).stat().st_size for file in FILES) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
