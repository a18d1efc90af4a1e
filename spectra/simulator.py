r"""A labelled survey from physics: stars, galaxies, quasars, and spectra that nobody could classify.

    python -m spectra.simulator data/train --num 40000 --seed 1 --shares 0.4 0.2 0.2 0.2       # flux.npy, ivar.npy, ..
    python -m spectra.simulator data/test --num 20000 --seed 3                                 # the article's shares

Seeded: the same arguments give the same arrays on one machine. Real spectra as templates: ``--templates DIR``.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.random import Generator
from tqdm import tqdm

from spectra.galaxies import GalaxyModel
from spectra.instrument import OBSERVED_FIRST, OBSERVED_SIZE, OBSERVED_STEP, Defects, Instrument, fine
from spectra.quasars import Axis, quasars
from spectra.spectrum import CLASSES, SURVEY_SHARES
from spectra.stars import FIRST, LIGHT, STEP, StarModel, draw_stars
from spectra.survey import ARRAYS, SurveyArrays, SurveyWriter
from spectra.templates import Templates, load_templates
from trainer import UserError, run_main

Array = np.ndarray

CHUNK = 256  # spectra made at once: they share a focus and a comb of weak lines, and fit the cache


@dataclass(frozen=True, eq=False, kw_only=True)
class Spectra(SurveyArrays):
    """Simulated spectra on one axis, ``wavelength`` (N,) in vacuum angstrom."""

    wavelength: Array


@lru_cache(maxsize=1)
def models() -> tuple[StarModel, GalaxyModel, Instrument]:
    """The models, built once a process (two seconds)."""
    stars = StarModel()
    return stars, GalaxyModel(stars, np.random.default_rng(0)), Instrument()


def shift(rest: Array, redshift: Array) -> Array:
    """Rows on the rest-frame grid (B, W) -> on the observed grid (B, N), straight lines between pixels."""
    start = (OBSERVED_FIRST - np.log10(1 + redshift) - FIRST) / STEP
    whole = np.floor(start).astype(int)
    part = (start - whole).astype(np.float32)
    if whole.min() < 0 or whole.max() + OBSERVED_SIZE + 1 > rest.shape[1]:
        raise ValueError(f"redshifts {redshift.min():.3f} to {redshift.max():.3f} leave the rest-frame grid")
    rows = np.empty((len(rest), OBSERVED_SIZE), np.float32)
    for i, (begin, share) in enumerate(zip(whole, part, strict=True)):
        piece = rest[i, begin : begin + OBSERVED_SIZE + 1]
        rows[i] = piece[:-1] + share * (piece[1:] - piece[:-1])
    return rows


def reddening(rng: Generator, flux: Array, wavelength: Array) -> Array:
    """Behind the dust of the Milky Way: A(lambda) = 3.1 E(B-V) (lambda / 5,500)^-1.3, close to Cardelli et al. 1989."""
    excess = np.minimum(rng.exponential(0.2, len(flux)), 1.5)[:, None]
    return np.asarray(flux * np.exp(-0.921 * 3.1 * excess * (wavelength / 5500) ** -1.3).astype(np.float32))


class Survey:
    """Draws spectra of a class, with their true redshift and kind, before the instrument.

    Args:
        templates: real spectra that take the place of half of the models', or None.
    """

    def __init__(self, templates: Templates | None = None) -> None:
        self.stars, self.galaxies, self.instrument = models()
        self.templates = templates
        self.axis = Axis(self.instrument.wavelength, OBSERVED_STEP)

    def draw(self, rng: Generator, name: str, count: int) -> tuple[Array, Array, Array]:
        """Flux (count, N) above the atmosphere, redshift and kind (count,)."""
        flux, redshift, kind = {"star": self._stars, "galaxy": self._galaxies, "qso": self._quasars}[name](rng, count)
        if self.templates is not None and count:
            rows = np.flatnonzero(rng.random(count) < 0.5)
            self.templates.replace(rng, name, flux, redshift, kind, rows, self.axis.wavelength)
        return flux, redshift, kind

    def _stars(self, rng: Generator, count: int) -> tuple[Array, Array, Array]:
        types, kind = draw_stars(rng, count)
        redshift = np.clip(rng.normal(0, 60, count), -500, 500) / LIGHT
        flux = shift(self.stars(types, rng), redshift) if count else np.zeros((0, OBSERVED_SIZE), np.float32)
        return reddening(rng, flux, self.axis.wavelength), redshift, kind

    def _galaxies(self, rng: Generator, count: int) -> tuple[Array, Array, Array]:
        kind = rng.choice(np.array(["early", "late", "starburst"], dtype="<U12"), count, p=[0.4, 0.4, 0.2])
        redshift = np.where(rng.random(count) < 0.6, rng.gamma(2.2, 0.06, count), rng.uniform(0, 0.6, count))
        redshift = np.clip(redshift, 0.002, 0.6)
        return shift(self.galaxies(rng, kind), redshift), redshift, kind

    def _quasars(self, rng: Generator, count: int) -> tuple[Array, Array, Array]:
        redshift = np.where(rng.random(count) < 0.5, rng.uniform(0.3, 4.0, count), rng.normal(1.8, 0.8, count))
        redshift = np.where((redshift < 0.3) | (redshift > 4), rng.uniform(0.3, 4.0, count), redshift)
        host = np.ones((count, OBSERVED_SIZE), np.float32)
        near = np.flatnonzero(redshift < 0.6)
        if len(near):
            rest = self.galaxies(rng, rng.choice(np.array(["early", "late"]), len(near)))
            host[near] = shift(rest, redshift[near])
            host[near] /= np.median(host[near], axis=1, keepdims=True)
        kind = np.where(redshift < 0.9, "qso low z", np.where(redshift < 2.1, "qso mid z", "qso high z")).astype("<U12")
        return quasars(rng, self.axis, redshift, host), redshift, kind

    def _unknown(self, rng: Generator, count: int) -> tuple[Array, Array, Array, Array, Defects]:
        """Mostly too faint; else ruined by sky, splice or a lost arm, nothing but sky, or two objects in one."""
        reasons = np.array(["faint", "sky", "splice", "one arm", "empty", "mixture"], dtype="<U12")
        kind = rng.choice(reasons, count, p=[0.6, 0.1, 0.08, 0.07, 0.1, 0.05])
        sources = rng.choice(np.array(["star", "galaxy", "qso"]), count, p=[0.6, 0.25, 0.15])
        flux = np.empty((count, OBSERVED_SIZE), np.float32)
        for source in ("star", "galaxy", "qso"):
            rows = np.flatnonzero(sources == source)
            if len(rows):
                flux[rows] = self.draw(rng, source, len(rows))[0]
        mixed = np.flatnonzero(kind == "mixture")
        if len(mixed):
            other = np.concatenate([self.draw(rng, name, len(mixed))[0][None] for name in ("galaxy", "star")])
            other = other[(sources[mixed] == "galaxy").astype(int), np.arange(len(mixed))]
            both = [x / np.median(x, axis=1, keepdims=True) for x in (flux[mixed], other)]
            share = rng.uniform(0.35, 0.65, (len(mixed), 1)).astype(np.float32)
            flux[mixed] = share * both[0] + (1 - share) * both[1]
        # a quasar's lines are seen at an S/N at which nobody tells a star from a galaxy
        faint = np.where(sources == "qso", rng.uniform(0.02, 0.45, count), rng.uniform(0.02, 1.3, count))
        snr = np.where((kind == "faint") | (kind == "empty"), faint, 10 ** rng.uniform(0.2, 1.2, count))
        usual = fine(count, rng)
        sign = rng.choice([-1, 1], count)
        defects = Defects(
            np.where(kind == "splice", sign * rng.uniform(0.7, 2.0, count), usual.splice),
            np.where(kind == "sky", sign * rng.uniform(0.08, 0.4, count), usual.sky_error),
            np.where(kind == "one arm", rng.integers(1, 3, count), 0),
            np.where(kind == "empty", 0.0, 1.0),
        )
        return flux, np.full(count, np.nan), kind, snr, defects

    def observe(self, rng: Generator, label: int, count: int) -> tuple[Array, Array, Array, Array, Array]:
        """Flux, ivar (count, N), redshift, S/N and kind (count,) of one class as the instrument delivers them."""
        if CLASSES[label] == "unknown":
            flux, redshift, kind, snr, defects = self._unknown(rng, count)
        else:
            flux, redshift, kind = self.draw(rng, CLASSES[label], count)
            middle, least = {"star": (14, 1.6), "galaxy": (8, 1.6), "qso": (5, 0.6)}[CLASSES[label]]
            snr = np.clip(np.exp(rng.normal(np.log(middle), 0.95, count)), least, 200)
            defects = fine(count, rng)
        observed, ivar = self.instrument(rng, flux, snr, defects)
        return observed, ivar, redshift, snr, kind


def chunks(
    num: int, seed: int, shares: Sequence[float] = SURVEY_SHARES, templates: Templates | None = None
) -> Iterator[Spectra]:
    """The spectra of `simulate`, a few hundred at a time.

    Raises:
        UserError: no spectra asked for, a negative seed, or shares that are no four probabilities.
    """
    if num < 1:
        raise UserError(f"num is {num}; expected at least one spectrum")
    if seed < 0:
        raise UserError(f"seed is {seed}; expected 0 or more")
    if len(shares) != len(CLASSES) or min(shares) < 0 or not np.isclose(sum(shares), 1, atol=1e-3):
        raise UserError(f"shares are {tuple(shares)}; expected four probabilities of sum 1, of {', '.join(CLASSES)}")
    survey = Survey(templates)
    for number in range(-(-num // CHUNK)):
        rng = np.random.default_rng([seed, number])
        count = min(CHUNK, num - number * CHUNK)
        labels = rng.choice(len(CLASSES), CHUNK, p=np.array(shares) / sum(shares))
        parts: list[Array] = [
            np.empty((CHUNK, OBSERVED_SIZE), np.float32), np.empty((CHUNK, OBSERVED_SIZE), np.float32),
            np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), np.empty(CHUNK, "<U12"),
        ]  # fmt: skip
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            for part, found in zip(parts, survey.observe(rng, int(label), len(rows)), strict=True):
                part[rows] = found
        flux, ivar, redshift, snr, kind = (part[:count] for part in parts)
        yield Spectra(
            flux=flux, ivar=ivar, labels=labels[:count].astype(np.int64), redshift=redshift, snr=snr, kind=kind,
            wavelength=survey.instrument.wavelength,
        )  # fmt: skip


def simulate(
    num: int, seed: int, shares: Sequence[float] = SURVEY_SHARES, templates: Templates | None = None
) -> Spectra:
    """Simulate a survey.

    Args:
        num: spectra.
        seed: the same seed gives the same spectra; a longer survey begins with the spectra of a shorter one.
        shares: probability of each of `CLASSES`; those of the article's survey by default.
        templates: real spectra that take the place of half of the models' (`spectra.templates.load_templates`).

    Raises:
        UserError: see `chunks`.
    """
    made = list(chunks(num, seed, shares, templates))
    arrays = {name: np.concatenate([getattr(chunk, name) for chunk in made]) for name in ARRAYS}
    return Spectra(**arrays, wavelength=made[0].wavelength)


@dataclass(frozen=True)
class Settings:
    """Write a simulated survey as memory-mapped arrays: flux.npy, ivar.npy, labels.npy and what is true of each."""

    out: Annotated[Path, tyro.conf.Positional]
    """folder to write; made anew"""
    num: int = 20_000
    """spectra; 31 KB each"""
    seed: int = 0
    """of everything that is random"""
    shares: tuple[float, float, float, float] = SURVEY_SHARES
    """of star, unknown, galaxy, qso; those of the article's survey by default"""
    templates: Path | None = None
    """folder with spEigenStar-*, spEigenGal-* and spEigenQSO-*.fits: real spectra for half of the models'"""


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate and write, a chunk at a time."""
    settings = tyro.cli(Settings, args=argv, prog="python -m spectra.simulator")
    templates = None if settings.templates is None else load_templates(settings.templates)
    made = chunks(settings.num, settings.seed, settings.shares, templates)
    first = next(made)
    writer = SurveyWriter(settings.out, settings.num, first.wavelength)
    bar = tqdm(total=settings.num, desc="simulating", leave=False)
    for chunk in chain([first], made):
        writer.add({name: getattr(chunk, name) for name in ARRAYS})
        bar.update(len(chunk))
    bar.close()
    source = "none" if settings.templates is None else settings.templates.name
    writer.finish({"seed": settings.seed, "shares": settings.shares, "templates": source})
    print(f"{settings.out}: {settings.num} spectra, {dict(Counter(CLASSES[i] for i in writer.arrays['labels']))}")


if __name__ == "__main__":
    run_main(main)
