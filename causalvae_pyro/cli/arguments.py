"""What the ``causalvae`` command takes: its commands, their options and defaults.

Nothing here imports PyTorch, so that the help takes no time; a test holds the values below against their sources.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import causalvae_pyro
from causalvae_pyro.utils.files import user_path

__all__ = ["PRESETS", "QUICK", "parse"]

#: Names of the simulators, see :data:`causalvae_pyro.datasets.registry.SIMULATORS`.
SIMULATORS = ("flow", "pendulum")
#: Published data sets in a folder of the user's, see :data:`causalvae_pyro.datasets.registry.PUBLISHED`.
PUBLISHED = ("celeba", "morphomnist", "yaleb")
#: Small changes of images, see :data:`causalvae_pyro.recipes.views.VIEWS`.
VIEWS = ("shift", "turn", "zoom", "light")
#: Decoders of :class:`causalvae_pyro.Recipe`.
DECODERS = ("auto", "conv", "sprites", "scene", "backdrop", "hierarchical", "bilinear")
#: How they part train and test, see :class:`causalvae_pyro.datasets.ImageSimulator`.
PARTITIONS = ("iid", "grid", "compositional")
#: Defaults of :class:`causalvae_pyro.Recipe` that have options.
RECIPE: dict[str, Any] = {"dim": 1, "prior_std": None, "w_eps": 0.0, "w_z": 1.0}
#: Of the page of ``explore``, see :data:`causalvae_pyro.explore.server.PORT`.
PORT = 7860
#: Of the detail that counterfactual images keep, see :data:`causalvae_pyro.interventions.FADE`.
FADE = 0.03
#: Networks whose features ``--fid`` compares.
FEATURES = ("inception", "predictor")

_RUN = "directory of the run; or pendulum or flow, if there is none of that name, for a run that comes with the package"
#: Of --quick: training images, and test images that are scored.
QUICK = (2000, 200)

PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"encoder": "conv", "refinements": 1},
    "best": {"encoder": "conv", "refinements": 2},
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of the console command; ``.command`` is the name of a module of :mod:`causalvae_pyro.cli`.

    Args:
        argv: Arguments; those of the process by default.
    """
    parser = _make_parser()
    arguments = parser.parse_args(argv)
    for name, value in vars(arguments).items():
        # argparse takes the value of --name=-- for no value, and lets that pass.
        if isinstance(value, list) and (not value or [] in value) and name != "views":
            parser.error(f"argument --{name.replace('_', '-')}: expected one argument")
    return arguments


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults behind the options that have one; of others the help says what happens without them."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def _make_parser() -> argparse.ArgumentParser:
    formatter = _Formatter
    # Without the marks that are for the documentation's builder.
    words = re.sub(r":\w+:`~?([^`]*)`", r"\1", causalvae_pyro.__doc__ or "").replace("``", "")
    parser = argparse.ArgumentParser(prog="causalvae", description=words, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--version", action="version", version=f"causalvae {causalvae_pyro.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train, score the result and write a report", formatter_class=formatter)
    train.add_argument(
        "data",
        nargs="?",
        choices=(*SIMULATORS, *PUBLISHED),
        help="a simulator; a published data set, with --root; or give --images, --labels, --graph",
    )
    published = train.add_argument_group("a published data set")
    published.add_argument("--root", type=user_path, metavar="DIR", help="the folder that its files are in")
    published.add_argument("--group", help="celeba: smile (default), beard, dear_smile or dear_age")
    published.add_argument("--crop", type=int, help="celeba: side of the square that is kept, in published pixels (default: 128)")
    own = train.add_argument_group("your own data, instead of a simulator")
    own.add_argument("--images", type=user_path, metavar="DIR", help="folder of images")
    own.add_argument(
        "--labels", type=user_path, metavar="FILE", help="CSV table: files in the first column, a column per concept"
    )
    own.add_argument("--graph", type=user_path, metavar="FILE", help="the graph: .json or .yaml of parents, or .csv adjacency")
    own.add_argument("--mode", choices=("L", "RGB", "RGBA"), help="convert all images to grey, colour or colour with opacity")
    own.add_argument("--split-by", metavar="COLUMN", help="keep the groups of this column (persons, scenes) in one split")
    own.add_argument("--group-by", metavar="COLUMN", help="images of a group (a person, a scene) may share what no label says")
    own.add_argument(
        "--rename", action="append", metavar="COLUMN=CONCEPT", help="name of a column's concept; may be given several times"
    )
    own.add_argument(
        "--categorical",
        action="append",
        metavar="CONCEPT",
        help="a concept whose numbers are those of its kinds, e.g. digit (also of morphomnist); may be given several times. "
        "A column of words always is one",
    )
    own.add_argument(
        "--unit", action="append", metavar="CONCEPT=UNIT", help="of a label, for figures; may be given several times"
    )
    train.add_argument("--out", type=user_path, help="directory of the run (default: runs/DATA, or runs/folder)")
    train.add_argument(
        "--size", type=int, help="side of the images in pixels, a multiple of 16 (default: 64; 32 for morphomnist)"
    )
    train.add_argument("--noise", type=float, default=0.0, help="simulators: mechanism noise in label standard deviations")
    train.add_argument("--partition", choices=PARTITIONS, default="iid", help="simulators: the split into train and test")
    train.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        default="fast",
        help="best: 30 epochs and a third reading; --epochs, --encoder and --refinements override it",
    )
    train.add_argument(
        "--quick",
        action="store_true",
        help=f"a look in half a minute: {QUICK[0]} images, 3 epochs, scored on {QUICK[1]} images; "
        "--limit and --epochs override it",
    )
    train.add_argument(
        "--epochs",
        type=int,
        help="passes over the images (default: flow 12, pendulum 6, faces 8, the bilinear decoder 3; of your own as many as make "
        "2,500 steps, or 1,000 where images have much of their own, at least 12 and, for that, at most 400)",
    )
    train.add_argument("--batch-size", type=int, help="images per step (default: 32; simulators 64, pendulum's sprites 32)")
    train.add_argument("--lr", type=float, default=2e-3, help="peak learning rate of Adam")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--limit", type=int, help="train on so many images only, evenly spaced")
    train.add_argument(
        "--validation-share",
        type=float,
        default=0.0,
        help="hold out so many of the training images, for the history and to calibrate intervals; without, those rows of a "
        "table of one's own whose column split says validation",
    )
    train.add_argument("--label-share", type=float, default=1.0, help="use the labels of so many images only, chosen at random")
    train.add_argument("--dim", type=int, default=RECIPE["dim"], help="dimensions of each concept")
    train.add_argument(
        "--decoder",
        choices=DECODERS,
        help="sprites: scenes of a few moving parts, the default for simulators; scene: parts that also change their look, over "
        "what brightens, fades or bends; backdrop: moving parts before a background that is another one in each image; "
        "conv: other images that the labels explain; hierarchical: images with much of their own, such as "
        "photographs; bilinear: photographs of groups (--group-by), such as persons, that differ by what the labels "
        "say; auto: the data choose, the default for all but simulators",
    )
    train.add_argument(
        "--noise-dim", type=int, help="conv, scene: dimensions of the image's own noise, in one vector (default: 0)"
    )
    train.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="photographs: mirrored images keep their labels; --no-mirror where left and right matter (default: by the data)",
    )
    train.add_argument(
        "--views",
        nargs="*",
        choices=VIEWS,
        help="photographs: small changes that leave the labels as they are; nothing behind it: none do (default: by the data)",
    )
    train.add_argument(
        "--grouped",
        action=argparse.BooleanOptionalAction,
        help="photographs: images of a group (--group-by) have their noise in common (default: by the data)",
    )
    train.add_argument("--encoder", choices=("conv", "spatial"), help="spatial: finer, and slower (default: conv)")
    train.add_argument("--refinements", type=int, help="sprites: how often the guide encodes its own reconstruction (default: 1)")
    train.add_argument("--prior-std", type=float, help="lambda2 in label standard deviations (default: by the decoder)")
    train.add_argument("--w-eps", type=float, default=RECIPE["w_eps"], help="weight of KL(q(eps) || p(eps))")
    train.add_argument("--w-z", type=float, default=RECIPE["w_z"], help="weight of KL(q(z) || p(z | u))")
    engine = train.add_argument_group("how it is trained")
    earlier = engine.add_mutually_exclusive_group()
    earlier.add_argument(
        "--resume", action="store_true", help="continue exactly where a stopped run in --out was, if there is one"
    )
    earlier.add_argument("--overwrite", action="store_true", help="replace a finished run in --out, which is refused otherwise")
    engine.add_argument("--ema", type=float, metavar="DECAY", help="train on, but keep an average of the weights, e.g. 0.999")
    engine.add_argument("--max-grad-norm", type=float, help="scale larger gradients down to this norm")
    engine.add_argument(
        "--patience",
        type=int,
        help="stop after so many epochs without a lower loss, that of the images held out where there are some; not with sprites",
    )
    engine.add_argument(
        "--mixed-precision", choices=("no", "fp16", "bf16"), help="of encoder and decoder, on devices that have it"
    )
    engine.add_argument("--micro-batches", type=int, default=1, help="parts in which a batch goes through, for less memory")
    engine.add_argument("--compile", action="store_true", help="compile encoder and decoder")
    engine.add_argument("--deterministic", action="store_true", help="deterministic algorithms only")
    engine.add_argument("--tensorboard", type=user_path, metavar="DIR", help="log for TensorBoard (extra tensorboard)")
    _device_option(train)
    _said(train)

    score = commands.add_parser("evaluate", help="score a run again and rewrite its report", formatter_class=formatter)
    score.add_argument("path", type=user_path, metavar="RUN", help=_RUN)
    score.add_argument("--limit", type=int, help="use so many test images only, evenly spaced")
    score.add_argument(
        "--predictor",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="train an independent predictor of the labels, which judges counterfactuals "
        "(default: where the true counterfactuals are unknown)",
    )
    score.add_argument(
        "--fid",
        nargs="?",
        choices=FEATURES,
        const=FEATURES[0],
        default=argparse.SUPPRESS,
        help="the Frechet distance of counterfactuals from test images, by the features of InceptionV3 or of the predictor "
        f"(extra fid; without a value: {FEATURES[0]})",
    )
    score.add_argument(
        "--lpips",
        type=user_path,
        metavar="FILE",
        help="how different images look after null interventions: AlexNet's weights, as torchvision publishes them (extra fid)",
    )
    _moved_data(score)
    _device_option(score)
    _said(score)

    cf = commands.add_parser("counterfactual", help="counterfactual images of test images", formatter_class=formatter)
    cf.add_argument("path", type=user_path, metavar="RUN", help=_RUN)
    cf.add_argument(
        "--do",
        action="append",
        required=True,
        metavar="CONCEPT=VALUE",
        help="in label units, or a word of a category; may be given several times",
    )
    own = cf.add_mutually_exclusive_group()
    own.add_argument("--count", type=int, default=8, help="number of test images, evenly spaced")
    own.add_argument(
        "--file",
        type=user_path,
        nargs="+",
        metavar="FILE",
        help="images of your own in place of test images: their middle, scaled; concepts are read off them",
    )
    cf.add_argument(
        "--eyes",
        type=float,
        nargs=4,
        metavar=("X1", "Y1", "X2", "Y2"),
        help="of the face in a single FILE, in pixels from its upper left corner, the left one first: it is shifted, turned "
        "and scaled to lie as CelebA's do",
    )
    cf.add_argument(
        "--pixel-noise",
        type=float,
        metavar="SHARE",
        help="share of the difference from the reconstruction that is kept, in [0, 1]: grain and fine detail, "
        f"and old edges where something moves (default: all, with --fade {FADE}, if the likelihood has a location and a scale)",
    )
    cf.add_argument(
        "--fade",
        type=float,
        metavar="CHANGE",
        help="keep it only as far as the image stays what it was: 61 percent where it changes by so much (such as 0.03); "
        "with --pixel-noise alone it does not fade",
    )
    cf.add_argument(
        "--out",
        type=user_path,
        default=Path("counterfactual.png"),
        help="image file: rows factual, reconstruction, model's, true",
    )
    _moved_data(cf)
    _device_option(cf)

    explore = commands.add_parser(
        "explore",
        help="open a page with a slider for every concept",
        description="Serves a page on this machine, to no other: pick a test image or drop one of your own, drag the concepts' "
        "sliders, and see the counterfactual beside the image and, for simulators, beside the true one. Ctrl-C ends it.",
        formatter_class=formatter,
    )
    explore.add_argument("path", type=user_path, metavar="RUN", help=_RUN)
    explore.add_argument(
        "--port", type=int, default=argparse.SUPPRESS, help=f"of the page (default: {PORT}, or a free one where that is taken)"
    )
    explore.add_argument("--samples", type=int, default=16, help="posterior samples behind a standard deviation")
    explore.add_argument("--open", action="store_true", help="open the page in the browser")
    _moved_data(explore)
    _device_option(explore)

    share = commands.add_parser(
        "share", help="make a folder for others, or upload it, with a model card", formatter_class=formatter
    )
    share.add_argument("path", type=user_path, metavar="RUN", help=_RUN)
    where = share.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", type=user_path, metavar="DIR", help="the folder to write")
    where.add_argument("--repository", metavar="OWNER/NAME", help="on Hugging Face's hub (hf auth login)")
    share.add_argument("--private", action="store_true", help="make the repository a private one")
    share.add_argument(
        "--pictures",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="include pictures in which test images can be seen (default: those of a simulator only)",
    )
    return parser


def _device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")


def _said(parser: argparse.ArgumentParser) -> None:
    said = parser.add_argument_group("what is printed")
    said.add_argument("--quiet", action="store_true", help="nothing but errors, and the scores with --json")
    said.add_argument("--json", action="store_true", help="the scores as JSON on standard output, all else on standard error")


def _moved_data(parser: argparse.ArgumentParser) -> None:
    moved = parser.add_argument_group("where the run's data are now, if they have moved")
    moved.add_argument("--images", type=user_path, metavar="DIR", help="of your own data")
    moved.add_argument("--labels", type=user_path, metavar="FILE", help="of your own data")
    moved.add_argument("--graph", type=user_path, metavar="FILE", help="of your own data")
    moved.add_argument("--root", type=user_path, metavar="DIR", help="of a published data set")
