"""Classes for spectra of any size of survey: calibrated probabilities, an honest unknown, a rough redshift.

    python -m spectra.predict runs/spectra/train-ours-seed0 'lamost/*.fits.gz' sdss/ -o classes.csv --workers 2
    python -m spectra.predict RUN spec-55859-F5902_sp01-001.fits.gz --plot plots

Files are read by the workers while the network works, and rows are written as they come: thousands of files need no
more memory than a few. A file that cannot be read is reported and left out.
"""

import csv
import glob
import hashlib
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, TextIO

import numpy as np
import torch
import tyro

from spectra.evaluate import EVEN, Classifier, load_run, logits_of
from spectra.figures import spectrum_figure
from spectra.fits_files import Flags
from spectra.metrics import posterior
from spectra.preprocess import Preprocessing
from spectra.reader import ENDINGS, read_spectrum
from spectra.redshift import PLOTTED, estimate
from spectra.saliency import saliency
from spectra.spectrum import CLASSES, SURVEY_SHARES, Spectrum, Unit
from spectra.survey import median_snr
from trainer import UserError, run_main, write_atomically

Array = np.ndarray
UNKNOWN = CLASSES.index("unknown")
COLUMNS = [
    "file",
    "class",
    "probability",
    *(f"p_{name}" for name in CLASSES),
    "redshift",
    "redshift_snr",
    "snr",
    "model",
]
BATCH = 32


@dataclass(frozen=True)
class Settings:
    """Classify spectra with a trained run; a row a file, as CSV.

    The class is the likeliest one; it is unknown where unknown is likeliest, or where no class reaches
    --min-probability.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run, or a checkpoint in it"""
    files: Annotated[tuple[str, ...], tyro.conf.Positional]
    """spectra: files, folders, or patterns in quotes; FITS, csv, tsv, txt, npy, npz; .gz or not"""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """CSV file; empty: standard output"""
    priors: tuple[float, float, float, float] | None = None
    """shares of star, unknown, galaxy, qso to expect in these files; empty: even. --survey for a survey's"""
    survey: bool = False
    """expect the article's survey: 0.9155 0.0709 0.0108 0.0028"""
    min_probability: float = 0.5
    """a class below this is called unknown"""
    redshift: bool = True
    """estimate it, by cross-correlation with the class's templates (5 ms a spectrum)"""
    workers: int = 0
    """processes that read files; 0: this one"""
    plot: Path | None = None
    """folder for a figure of each spectrum, and in it the folders that the spectra have: lines of its class at its
    redshift, and what decided"""
    wavelength: Path | None = None
    """text or .npy file with the axis of spectra that have none"""
    wavelength_unit: Unit = "angstrom"
    """of text and numpy files: angstrom, nm, um, or log10 of angstrom"""
    air: bool = False
    """text and numpy files are on wavelengths in air"""
    flags: Flags = "and"
    """mask of FITS files that counts: flagged in every exposure (and), in any (or), none"""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UserError(f"--workers must be 0 or more, got {self.workers}")

    def shares(self) -> tuple[float, ...]:
        """The class shares to expect.

        Raises:
            UserError: shares that are none.
        """
        fine = self.priors is None or (all(p >= 0 for p in self.priors) and abs(sum(self.priors) - 1) <= 1e-3)
        if not fine:
            raise UserError(f"--priors {self.priors}: expected four shares of sum 1, of {', '.join(CLASSES)}")
        if self.priors is not None and self.survey:
            raise UserError("give --priors or --survey, not both")
        return self.priors or (SURVEY_SHARES if self.survey else EVEN)


def expand(names: Sequence[str]) -> list[Path]:
    """Files of the names, patterns and folders given, in order, each once.

    Raises:
        UserError: a folder or pattern with nothing in it, or no name at all.
    """
    found: dict[Path, None] = {}
    for name in names:
        if Path(name).is_dir():
            inside = sorted(p for p in Path(name).iterdir() if p.name.lower().endswith(ENDINGS))
            if not inside:
                raise UserError(f"{name}: no spectrum in this folder (expected {', '.join(ENDINGS)})")
        elif any(sign in name for sign in "*?[") and not Path(name).exists():
            inside = sorted(map(Path, glob.glob(name, recursive=True)))
            if not inside:
                raise UserError(f"{name}: no file fits this pattern")
        else:
            inside = [Path(name)]
        found |= dict.fromkeys(inside)
    if not found:
        raise UserError("no spectrum given: name files, folders or patterns after the run")
    return list(found)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A spectrum and the network's input of it, or what is wrong with its file."""

    path: Path
    spectrum: Spectrum | None = None
    inputs: Array | None = None
    problem: str = ""


def prepare(path: Path, preprocessing: Preprocessing, options: dict[str, Any]) -> Prepared:
    """Read and preprocess one file; a mistake in it is returned, not raised, so that a batch goes on without it."""
    try:
        spectrum = read_spectrum(path, **options)
        return Prepared(path, spectrum, preprocessing(spectrum))
    except UserError as error:
        return Prepared(path, problem=str(error))
    except Exception as error:  # whatever it is, the other files are not lost by it
        return Prepared(path, problem=f"{path}: cannot be used ({type(error).__name__}: {error})")


def prepare_all(paths: Iterable[Path], work: partial[Prepared], workers: int) -> Iterator[Prepared]:
    """The files in order, read by this process or ahead of it by others, a few batches at most."""
    if not workers:
        yield from map(work, paths)
        return
    # started anew and not forked: a fork of a process whose libraries run threads can hang
    with ProcessPoolExecutor(workers, get_context("forkserver")) as pool:
        waiting: deque[Future[list[Prepared]]] = deque()
        rest = iter(paths)
        while True:
            while len(waiting) < 2 * workers + 1 and (chunk := list(islice(rest, BATCH))):
                waiting.append(pool.submit(_prepare_chunk, work, chunk))
            if not waiting:
                return
            yield from waiting.popleft().result()


def _prepare_chunk(work: partial[Prepared], paths: Sequence[Path]) -> list[Prepared]:
    return [work(path) for path in paths]


def model_hash(classifier: Classifier) -> str:
    """Twelve digits of the sha256 of all weights: which model said so."""
    digest = hashlib.sha256()
    for name, tensor in classifier.model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def decide(probabilities: Array, least: float) -> Array:
    """(B,) classes: the likeliest, or unknown where it stays below ``least``."""
    best = probabilities.argmax(axis=1)
    return np.where(probabilities.max(axis=1) < least, UNKNOWN, best)


def classify(
    classifier: Classifier, batch: Sequence[Prepared], settings: Settings, model: str, root: Path
) -> Iterator[list[Any]]:
    """Rows of the table for one batch; figures go where their files are, seen from ``root``."""
    inputs = np.stack([item.inputs for item in batch if item.inputs is not None])
    logits = logits_of(classifier.model, inputs, bf16=classifier.settings["precision"] == "bf16")
    probabilities = posterior(logits, classifier.temperature, classifier.shares, settings.shares())
    for item, chances, label in zip(batch, probabilities, decide(probabilities, settings.min_probability), strict=True):
        assert item.spectrum is not None
        assert item.inputs is not None
        name = CLASSES[label]
        found, strength = estimate(item.spectrum, name) if settings.redshift else (float("nan"), 0.0)
        if settings.plot is not None:
            folder = settings.plot / os.path.relpath(item.path.parent, root)
            plot(classifier, item, int(label), float(chances[label]), found, folder)
        yield [
            item.path, name, f"{chances[label]:.4f}", *(f"{p:.4f}" for p in chances),
            "" if np.isnan(found) else f"{found:.4f}", f"{strength:.1f}", f"{median_snr(item.spectrum):.2f}", model,
        ]  # fmt: skip


def plot(classifier: Classifier, item: Prepared, label: int, chance: float, redshift: float, folder: Path) -> None:
    """A figure of one spectrum, as FOLDER/NAME.png."""
    assert item.inputs is not None
    name = CLASSES[label]
    at = f", z = {redshift:.4f}" if not np.isnan(redshift) else ""
    preprocessing = classifier.preprocessing
    flux = np.sinh(item.inputs[0]) if preprocessing.normalisation == "asinh" else item.inputs[0]
    figure = spectrum_figure(
        preprocessing.wavelength, flux, saliency(classifier.model, item.inputs, label),
        f"{item.path.name}: {name} ({chance:.3f}){at}", PLOTTED[name] if at else {}, 0.0 if not at else redshift,
        item.inputs[1] == 0 if preprocessing.noise_channel else None,
    )  # fmt: skip
    write_atomically(folder / f"{item.path.name}.png", lambda file: figure.savefig(file, format="png", dpi=110))


def write_rows(
    classifier: Classifier, items: Iterator[Prepared], settings: Settings, root: Path, out: TextIO
) -> tuple[int, int]:
    """Write the table as batches come; numbers of spectra written and left out."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    model, done, left_out = model_hash(classifier), 0, 0
    while chunk := list(islice(items, BATCH)):
        for item in chunk:
            if item.problem:
                print(f"left out: {item.problem}", file=sys.stderr)
                left_out += 1
        good = [item for item in chunk if not item.problem]
        for row in classify(classifier, good, settings, model, root) if good else ():
            writer.writerow(row)
            done += 1
        out.flush()
    return done, left_out


def main(argv: Sequence[str] | None = None) -> tuple[int, int]:
    """Classify every file; returns how many were and how many were left out."""
    settings = tyro.cli(Settings, args=argv, prog="python -m spectra.predict")
    settings.shares()  # a wrong flag is said before anything is read
    paths = expand(settings.files)
    root = Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))
    classifier = load_run(settings.run)
    options: dict[str, Any] = {
        "flags": settings.flags,
        "air": settings.air,
        "wavelength_unit": settings.wavelength_unit,
    }
    if settings.wavelength is not None:
        options["wavelength"] = read_spectrum(settings.wavelength).flux.astype(np.float64)
    torch.set_num_threads(max(1, torch.get_num_threads() - settings.workers))
    items = prepare_all(
        paths, partial(prepare, preprocessing=classifier.preprocessing, options=options), settings.workers
    )
    if settings.output is None:
        done, left_out = write_rows(classifier, items, settings, root, sys.stdout)
    else:
        done, left_out = _to_file(classifier, items, settings, root, settings.output)
    if done == 0:
        raise UserError(f"none of the {left_out} files could be read")
    print(f"{done} spectra classified, {left_out} left out", file=sys.stderr)
    return done, left_out


def _to_file(
    classifier: Classifier, items: Iterator[Prepared], settings: Settings, root: Path, path: Path
) -> tuple[int, int]:
    """Rows go to a file beside ``path``, which takes its place when all are there."""
    partial_path = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial_path, "w", encoding="utf-8", newline="") as file:
            counts = write_rows(classifier, items, settings, root, file)
        partial_path.replace(path)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error})") from error
    return counts


if __name__ == "__main__":
    run_main(main)
