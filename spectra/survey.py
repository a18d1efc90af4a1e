"""A labelled survey on disk: memory-mapped arrays, written a chunk at a time, read a batch at a time.

    FOLDER/flux.npy ivar.npy    (N, P) float32, ivar zero where masked
    FOLDER/labels.npy           (N,) int64: 0 star, 1 unknown, 2 galaxy, 3 qso
    FOLDER/redshift.npy snr.npy kind.npy
    FOLDER/survey.json          axis, number, whether it has errors, where it came from, sha256 of the fluxes

Real spectra, of which a header or an index tells the class, are brought into the same form:

    python -m spectra.survey data/competition --index first_train_index.csv --folder first_train_data
    python -m spectra.survey data/real --files 'lamost/*.fits.gz' 'sdss/*.fits.gz'
"""

import glob
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tqdm import tqdm

from spectra.preprocess import Preprocessing
from spectra.reader import read_index, read_spectrum
from spectra.spectrum import CLASSES, Spectrum
from trainer import UserError, run_main, write_json

Array = np.ndarray
ARRAYS = ("flux", "ivar", "labels", "redshift", "snr", "kind")
TYPES: dict[str, Any] = {"labels": np.int64, "kind": "<U12"}  # the others are float32
CHUNK = 256  # spectra held in memory before they are written


class SurveyWriter:
    """Fills the arrays of a folder from chunks.

    Args:
        folder: made if need be; an older survey in it is replaced.
        num: spectra that will come, at most.
        wavelength: (P,) their common axis; an integer: pixels without one.
    """

    def __init__(self, folder: Path, num: int, wavelength: Array | int) -> None:
        self.folder, self.num, self.done = folder, num, 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "survey.json").unlink(missing_ok=True)  # a survey is complete when this file is there
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error})") from error
        pixels = wavelength if isinstance(wavelength, int) else len(wavelength)
        self.axis: dict[str, Any] = {"pixels": pixels}
        if not isinstance(wavelength, int):
            logs = np.log10(wavelength)
            self.axis |= {"first": round(float(logs[0]), 9), "step": round(float(logs[1] - logs[0]), 9)}
        self.arrays = {name: self._open(name, (num, pixels) if name in ("flux", "ivar") else (num,)) for name in ARRAYS}
        self.hash = hashlib.sha256()

    def _open(self, name: str, shape: tuple[int, ...]) -> Array:
        try:
            return np.lib.format.open_memmap(
                self.folder / f"{name}.npy", mode="w+", dtype=TYPES.get(name, np.float32), shape=shape
            )
        except OSError as error:
            raise UserError(f"{self.folder / name}.npy: cannot be written ({error})") from error

    def add(self, chunk: Mapping[str, Array]) -> None:
        """Append a chunk: an array for each of `ARRAYS`."""
        end = self.done + len(chunk["labels"])
        for name in ARRAYS:
            self.arrays[name][self.done : end] = chunk[name]
        self.hash.update(self.arrays["flux"][self.done : end].tobytes())
        self.hash.update(self.arrays["labels"][self.done : end].tobytes())
        self.done = end

    def finish(self, source: Mapping[str, Any]) -> None:
        """Flush, cut the files to the spectra that came, and write survey.json last."""
        for name, array in self.arrays.items():
            array.flush()  # type: ignore[attr-defined]
            if self.done < self.num:
                self._cut(self.folder / f"{name}.npy", array[: self.done])
        content = {"num": self.done, "axis": self.axis, "classes": CLASSES, **source, "sha256": self.hash.hexdigest()}
        write_json(self.folder / "survey.json", content)

    @staticmethod
    def _cut(path: Path, rows: Array) -> None:
        with open(path, "r+b") as file:  # a header's length does not depend on the number of rows
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(rows))
            file.truncate(file.tell() + rows.nbytes)


@dataclass(frozen=True, eq=False, kw_only=True)
class SurveyArrays:
    """What a survey knows of B spectra on one axis of N pixels: see `ARRAYS`.

    Attributes:
        flux, ivar: (B, N) float32, counts and their inverse variance, zero where masked.
        labels: (B,) int64, places in `CLASSES`.
        redshift: (B,) float32; nan for the unknown.
        snr: (B,) float32, median S/N a pixel.
        kind: (B,) text: spectral type, galaxy type, or what is wrong with the unknown.
    """

    flux: Array
    ivar: Array
    labels: Array
    redshift: Array
    snr: Array
    kind: Array

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredSurvey(SurveyArrays):
    """A survey's arrays, mapped and not read.

    ``wavelength`` is None for pixels without an axis; without ``has_errors`` ivar is 1, or 0 where masked.
    """

    folder: Path
    wavelength: Array | None
    has_errors: bool
    sha256: str


def open_survey(folder: Path) -> StoredSurvey:
    """Map the arrays of a folder.

    Raises:
        UserError: no survey there, one that was not finished, or arrays that do not belong together.
    """
    if not (folder / "survey.json").is_file():
        raise UserError(
            f"{folder}: no survey there (no survey.json); make one: python -m spectra.simulator {folder} --num 20000"
        )
    try:
        about = json.loads((folder / "survey.json").read_text(encoding="utf-8"))
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
        axis, num = about["axis"], about["num"]
        wavelength = 10 ** (axis["first"] + axis["step"] * np.arange(axis["pixels"])) if "first" in axis else None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: a survey that cannot be read ({error}); make it anew") from error
    for name, array in arrays.items():
        expected = (num, axis["pixels"]) if name in ("flux", "ivar") else (num,)
        if array.shape != expected:
            raise UserError(f"{folder / name}.npy: shape {array.shape}; survey.json says {expected}")
    has_errors = about.get("errors", "first" in axis)
    return StoredSurvey(**arrays, folder=folder, wavelength=wavelength, has_errors=has_errors, sha256=about["sha256"])


def median_snr(spectrum: Spectrum) -> float:
    """Median S/N a pixel of the usable pixels; nan without errors."""
    if spectrum.ivar is None or spectrum.mask.all():
        return float("nan")
    good = ~spectrum.mask
    return float(np.median(spectrum.flux[good] * np.sqrt(spectrum.ivar[good])))


def labelled_files(patterns: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """FITS files and the class their own header gives, in lower case; files of another class are an error."""
    paths = sorted(Path(name) for pattern in patterns for name in glob.glob(pattern, recursive=True))
    if not paths:
        raise UserError(f"no file fits {' '.join(patterns)}")
    for path in paths:
        yield path, ""


@dataclass(frozen=True)
class Settings:
    """Bring spectra of known class into the form that training and evaluation read."""

    out: Annotated[Path, tyro.conf.Positional]
    """folder to write"""
    files: tuple[str, ...] = ()
    """FITS files, or patterns in quotes; the class is that of their header"""
    index: Path | None = None
    """the competition's csv of id,type"""
    folder: Path | None = None
    """of the competition's id.txt files; empty: that of the index"""


def main(argv: Sequence[str] | None = None) -> None:
    """Read every file; what cannot be read is reported and left out."""
    settings = tyro.cli(Settings, args=argv, prog="python -m spectra.survey")
    if (settings.index is None) == (not settings.files):
        raise UserError("give either --files or --index")
    if settings.index is not None:
        pairs = list(read_index(settings.index, settings.folder))
    else:
        pairs = list(labelled_files(settings.files))
    source = str(settings.index or " ".join(settings.files))
    grid = Preprocessing(step=1e-4, size=3908) if settings.index is None else None
    rows = _rows(pairs, grid)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{source}: none of the {len(pairs)} spectra could be read")
    writer = SurveyWriter(settings.out, len(pairs), len(first["flux"]) if grid is None else grid.wavelength)
    rest, errors = chain([first], rows), True
    while chunk := list(islice(rest, CHUNK)):
        writer.add({name: np.array([row[name] for row in chunk]) for name in ARRAYS})
        errors = errors and all(row["errors"] for row in chunk)
    writer.finish({"source": source, "errors": errors})
    print(f"{settings.out}: {writer.done} spectra")


def _rows(pairs: Sequence[tuple[Path, str]], grid: Preprocessing | None) -> Iterator[dict[str, Any]]:
    """The spectra that can be read and are as long as the first of them; the others are reported."""
    size = 0
    for path, name in tqdm(pairs, desc="reading", leave=False):
        try:
            row = _row(path, name, grid)
            size = size or len(row["flux"])
            if len(row["flux"]) != size:
                raise UserError(f"{path}: {len(row['flux'])} pixels; expected {size}, as in the first spectrum")
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
        else:
            yield row


def _row(path: Path, name: str, grid: Preprocessing | None) -> dict[str, Any]:
    spectrum = read_spectrum(path)
    name = name or str(spectrum.meta.get("class", "")).strip().lower()
    if name not in CLASSES:
        raise UserError(f"{path}: its header says class {name!r}; expected one of {', '.join(CLASSES)}")
    flux, ivar = spectrum.flux, np.where(spectrum.mask, 0, 1) if spectrum.ivar is None else spectrum.ivar
    if grid is not None:
        assert spectrum.wavelength is not None  # FITS files have one
        values, errors, _ = grid.resample(spectrum.wavelength, flux[None], ivar[None], ~spectrum.mask[None])
        flux, ivar = values[0], errors[0]
    return {
        "flux": flux, "ivar": ivar, "labels": CLASSES.index(name), "redshift": spectrum.meta.get("z", np.nan),
        "snr": median_snr(spectrum), "kind": str(spectrum.meta.get("subclass", ""))[:12],
        "errors": spectrum.ivar is not None,
    }  # fmt: skip


if __name__ == "__main__":
    run_main(main)
