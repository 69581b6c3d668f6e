"""Sharing a trained pair: a folder that anyone can load, with a model card, and Hugging Face's hub."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from causalvae_pyro.checkpoints.pretrained import run_directory
from causalvae_pyro.checkpoints.runs import CONFIG, WEIGHTS, Run, are_scores_of, load, save
from causalvae_pyro.utils.files import write_bytes, write_text
from causalvae_pyro.utils.templates import render

__all__ = ["from_pretrained", "model_card", "push_to_hub", "save_pretrained"]

CARD = "README.md"

# Where somebody's own data lie is nobody else's business.
_PRIVATE = ("images", "labels", "graph", "root", "cache")


def save_pretrained(
    run: Run, path: str | os.PathLike, *, scores: Mapping[str, Any] | None = None, pictures: Iterable[str | os.PathLike] = ()
) -> None:
    """Writes what is needed to load the run elsewhere: ``config.json``, ``model.safetensors`` and a model card.

    Paths of the data, which mean nothing elsewhere, are left out of the configuration.

    Args:
        run: The trained pair.
        path: The folder, made where it is missing.
        scores: What :func:`~causalvae_pyro.evaluation.evaluate` found, for the card.
        pictures: Image files, copied and shown in the card.

    Raises:
        FileNotFoundError: If a picture does not exist.
        ValueError: If two pictures have one name, or it is that of a file of the run; or if the scores say that they are of other
            weights.
    """
    if scores is not None and not are_scores_of(run, scores):
        raise ValueError("scores: were found with other weights than the run's; causalvae evaluate RUN finds them anew")
    directory, shown = Path(path), [Path(picture) for picture in pictures]
    names = [picture.name for picture in shown]
    for picture in shown:
        if not picture.is_file():
            raise FileNotFoundError(f"pictures: {picture} does not exist")
        if names.count(picture.name) > 1 or picture.name in (CONFIG, WEIGHTS, CARD):
            raise ValueError(f"pictures: {picture.name!r} is the name of another file in the folder")
    public = _without_paths(run)
    save(public, directory)
    for picture in shown:
        if picture.resolve() != (directory / picture.name).resolve():
            write_bytes(directory / picture.name, picture.read_bytes())
    write_text(directory / CARD, model_card(public, scores=scores, pictures=names))


def from_pretrained(
    source: str | os.PathLike,
    *,
    revision: str | None = None,
    force_download: bool = False,
    device: str | torch.device = "cpu",
    classes: Mapping[str, Callable[..., Any]] | None = None,
) -> Run:
    """Loads a shared run. Only JSON and safetensors are read; nothing is unpickled.

    Args:
        source: A folder, the name of a run that comes with the package (see :func:`~causalvae_pyro.load`), or the name of a
            repository on the hub, ``owner/name``.
        revision: Branch, tag or commit of the repository.
        force_download: Download the repository's files even where the hub's library has kept them from an earlier time: what is
            damaged there, it does not notice.
        device: Where to put model and guide.
        classes: As for :func:`~causalvae_pyro.load`.

    Raises:
        FileNotFoundError: If it is neither a folder nor the name of a repository, or one of its two files is missing.
        OSError: If the repository cannot be had: :class:`ConnectionError`, or what the hub's library says.
        ValueError: If a file is damaged; see :func:`~causalvae_pyro.load`.
    """
    if run_directory(source).is_dir():
        return load(source, device=device, classes=classes)
    name = str(source)
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or Path(name).is_absolute() or parts[0] in (".", ".."):
        raise FileNotFoundError(f"source: {name} is no folder here, and no repository's name, which is 'owner/name'")
    import huggingface_hub

    with _connection(name):
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=[CONFIG, WEIGHTS], force_download=force_download
        )
    try:
        return load(folder, device=device, classes=classes)
    except (FileNotFoundError, ValueError) as error:
        if not str(error).startswith("path: "):
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(
            f"{error}; if the download of {name} was cut off, from_pretrained(..., force_download=True) repeats it"
        ) from None


def push_to_hub(
    run: Run,
    repository: str,
    *,
    scores: Mapping[str, Any] | None = None,
    pictures: Iterable[str | os.PathLike] = (),
    private: bool = False,
    token: str | None = None,
    message: str = "Upload a CausalVAE",
) -> str:
    """Uploads what :func:`save_pretrained` writes, in one commit; makes the repository where there is none.

    Args:
        run: The trained pair.
        repository: ``owner/name``.
        scores: See :func:`save_pretrained`.
        pictures: See :func:`save_pretrained`.
        private: For a repository that is made.
        token: The hub's access token; by default the one that ``hf auth login`` has kept.
        message: Of the commit.

    Returns:
        Its address.

    Raises:
        OSError: As :func:`from_pretrained`; what has been uploaded by then is not part of the repository.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(run, folder, scores=scores, pictures=pictures)
        with _connection(repository):
            api.create_repo(repository, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message))


def model_card(run: Run, *, scores: Mapping[str, Any] | None = None, pictures: Iterable[str] = ()) -> str:
    """What the run is, how good it is and how to load it, in Markdown with the hub's header.

    Args:
        run: The trained pair.
        scores: What :func:`~causalvae_pyro.evaluation.evaluate` found.
        pictures: Names of image files beside the card.
    """
    graph, model = run.graph, run.model
    parts = {part: type(getattr(model, part)).__name__ for part in ("scm", "prior", "decoder", "likelihood")}
    found = scores or {}
    cf, means = found.get("cf_score", {}), found.get("representation", {})
    return render(
        "causalvae_pyro.checkpoints",
        "card.md",
        data=run.data.get("name"),
        names=graph.names,
        edges=graph.edges,
        dim=model.scm.dim,
        channels=" x ".join(map(str, getattr(model.decoder, "image_shape", ()))) or "any",
        do=f'{{"{graph.names[0]}": 0.0}}',
        parts={**parts, "guide": type(run.guide).__name__},
        scores=None if scores is None else [(name, r2, cf.get(name)) for name, r2 in found.get("r2", {}).items()],
        means=[f"{title} {100 * means[key]:.1f} %" for title, key in (("MIC", "mic_mean"), ("TIC", "tic_mean")) if key in means],
        pictures=[Path(picture) for picture in pictures],
    )


def _without_paths(run: Run) -> Run:
    if not run.data:
        return run
    return replace(run, config={**run.config, "data": {key: value for key, value in run.data.items() if key not in _PRIVATE}})


@contextmanager
def _connection(repository: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:
        # Of the library beneath the hub's, which is another in each of its versions.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConnectionError(
            f"the hub cannot be reached ({type(error).__name__}: {reason}); {repository} is as it was before, try again"
        ) from error
