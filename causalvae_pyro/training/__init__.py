"""Training a model and its guide: :func:`fit`, and what can be added to it."""

from causalvae_pyro.training.callbacks import Callback, CSVLogger, EarlyStopping, TensorBoardLogger, TrainingState
from causalvae_pyro.training.devices import resolve_device
from causalvae_pyro.training.fitting import fit
from causalvae_pyro.training.history import History
from causalvae_pyro.training.monitor import NonFiniteLossError
from causalvae_pyro.training.pixel_scales import fit_pixel_scales
from causalvae_pyro.training.resuming import TrainingCheckpoint
from causalvae_pyro.training.schedules import cosine_schedule, linear_schedule

__all__ = [
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "NonFiniteLossError",
    "TensorBoardLogger",
    "TrainingCheckpoint",
    "TrainingState",
    "cosine_schedule",
    "fit",
    "fit_pixel_scales",
    "linear_schedule",
    "resolve_device",
]
