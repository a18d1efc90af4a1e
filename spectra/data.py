"""What a network is fed: a survey preprocessed once into a memory-mapped array, then batches of it.

Legend: ``N`` spectra, ``B`` of a batch, ``C`` channels, ``L`` pixels of the grid.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from spectra.preprocess import Preprocessing, fill_gaps
from spectra.spectrum import CLASSES
from spectra.survey import StoredSurvey
from trainer import UserError

Array = np.ndarray
CHUNK = 512


def prepared(survey: StoredSurvey, preprocessing: Preprocessing) -> Array:
    """(N, C, L) float32, mapped: the survey through the preprocessing, made on first use and kept in its folder.

    Raises:
        UserError: pixels without an axis where wavelengths are needed, a noise channel of spectra without errors, or a
            folder that cannot be written.
    """
    key = json.dumps([preprocessing.plain(), survey.sha256], sort_keys=True)
    path = survey.folder / f"inputs-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npy"
    if not path.is_file():
        if (survey.wavelength is None) != (preprocessing.axis == "pixels"):
            has = "no wavelengths: --axis pixels is for it" if survey.wavelength is None else "wavelengths: --axis log"
            raise UserError(f"{survey.folder}: this survey has {has}")
        if preprocessing.noise_channel and not survey.has_errors:
            raise UserError(f"{survey.folder}: this survey has no errors; --noise-channel needs them")
        _prepare(survey, preprocessing, path)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _prepare(survey: StoredSurvey, preprocessing: Preprocessing, path: Path) -> None:
    partial = path.with_name(f"{path.stem}.{uuid4().hex}.partial")  # another process may be at the same
    shape = (len(survey), preprocessing.channels, preprocessing.size)
    try:
        out = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        for begin in tqdm(range(0, len(survey), CHUNK), desc="preprocessing", leave=False):
            part = slice(begin, begin + CHUNK)
            flux, ivar = survey.flux[part], survey.ivar[part]
            if survey.wavelength is None:
                if flux.shape[1] != preprocessing.size:
                    raise UserError(f"{survey.folder}: {flux.shape[1]} pixels; say so with --size {flux.shape[1]}")
                out[part] = preprocessing.normalise(fill_gaps(flux, ivar > 0), ivar)
            else:
                out[part] = preprocessing.batch(survey.wavelength, flux, ivar)
        out.flush()
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error})") from error
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class Augmentation:
    """What a spectrum may have looked like as well; drawn anew every time it is served."""

    redshift_jitter: int = 0
    """galaxies and quasars are moved by up to so many bins either way (1 bin: step in log10 of wavelength)"""
    noise: float = 0.0
    """Gaussian noise is added, of up to this factor of the spectrum's own (told from neighbouring bins)"""
    splice: float = 0.0
    """standard deviation of the log of a step between the arms at 5,900 angstrom"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:  # nan is refused too
                raise UserError(f"--{name.replace('_', '-')} must be 0 or more, got {value}")

    def __bool__(self) -> bool:
        return bool(self.redshift_jitter or self.noise or self.splice)

    def __call__(self, inputs: Array, labels: Array, preprocessing: Preprocessing, rng: np.random.Generator) -> Array:
        """(B, C, L) -> the same shape; only the flux channel and, where spectra move, all of them change."""
        count, _, size = inputs.shape
        out = inputs.copy()
        if self.redshift_jitter:
            drawn = rng.integers(-self.redshift_jitter, self.redshift_jitter + 1, count)
            move = np.where(labels >= CLASSES.index("galaxy"), drawn, 0)
            place = np.clip(np.arange(size) - move[:, None], 0, size - 1)
            out = np.take_along_axis(out, place[:, None, :], axis=2)
        flux = np.sinh(out[:, 0]) if preprocessing.normalisation == "asinh" else out[:, 0]
        if self.splice:
            step = np.exp(rng.normal(0, self.splice, (count, 1))).astype(np.float32)
            flux = np.where(preprocessing.wavelength >= 5900, flux * step, flux)
        if self.noise:
            own = 1.05 * np.median(np.abs(np.diff(flux, axis=1)), axis=1, keepdims=True)  # 1.4826 / sqrt 2
            factor = rng.uniform(0, self.noise, (count, 1)) * own
            flux = flux + (factor * rng.standard_normal(flux.shape)).astype(np.float32)
        out[:, 0] = np.arcsinh(flux) if preprocessing.normalisation == "asinh" else flux
        return out


class SpectraBatches(Dataset[tuple[Tensor, Tensor]]):
    """The data set of training and validation: a list of indices gives inputs (B, C, L) and labels (B,).

    What is random is a function of seed, epoch and the indices of the batch, so a resumed run serves the same.

    Args:
        inputs: (N, C, L), mapped or not.
        labels: (N,).
        rows: which of them belong to this set.
        preprocessing: that the inputs went through.
        augmentation: None to serve them as they are.
        seed: of the augmentation.
    """

    def __init__(
        self,
        inputs: Array,
        labels: Array,
        rows: Array,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.inputs, self.rows, self.preprocessing = inputs, rows, preprocessing
        self.labels = np.asarray(labels)[rows]
        self.augmentation, self.seed, self.epoch = augmentation, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """From here on, serve this epoch's draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, labels = self.__getitems__([index])
        return inputs[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        index = np.asarray(indices)
        order = np.argsort(index, kind="stable")  # the disk is read in one direction
        inputs = np.empty((len(index), *self.inputs.shape[1:]), np.float32)
        inputs[order] = self.inputs[self.rows[index[order]]]
        labels = self.labels[index]
        if self.augmentation is not None:
            rng = np.random.default_rng([self.seed, self.epoch, *index.tolist()])
            inputs = self.augmentation(inputs, labels, self.preprocessing, rng)
        return torch.from_numpy(inputs), torch.from_numpy(labels)


def split(labels: Array, share: float, seed: int = 0) -> tuple[Array, Array]:
    """Rows for training and rows for validation, the same share of each class, at least one; sorted."""
    rng = np.random.default_rng(seed)
    held = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        held.append(rows[: max(1, round(share * len(rows)))])
    validation = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def drawn_by_class(labels: Array, shares: Sequence[float], count: int, seed: int) -> Callable[[int], Tensor]:
    """epoch -> ``count`` indices, the class of each drawn by its share, then one of that class, with replacement.

    The order that `trainer.EpochBatches` asks for; a function of seed and epoch alone.

    Raises:
        UserError: a class that has a share but no spectrum.
    """
    by_class = [torch.from_numpy(np.flatnonzero(labels == k)) for k in range(len(shares))]
    for name, share, rows in zip(CLASSES, shares, by_class, strict=False):
        if share > 0 and len(rows) == 0:
            raise UserError(f"no {name} to train on, but {share:g} of every batch is to be one: see --shares")

    def order(epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        chosen = torch.multinomial(torch.tensor(shares, dtype=torch.float64), count, True, generator=generator)
        place = torch.rand(count, dtype=torch.float64, generator=generator)
        indices = torch.empty(count, dtype=torch.int64)
        for k, rows in enumerate(by_class):
            where = chosen == k
            indices[where] = rows[(place[where] * len(rows)).long()] if len(rows) else 0
        return indices

    return order
