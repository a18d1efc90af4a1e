r"""From any spectrum to the network's input, the same in training and in prediction.

Legend: ``B`` spectra, ``N`` pixels of the file, ``L`` pixels of the grid, ``C`` channels.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from spectra.spectrum import Spectrum
from trainer import UserError

Array = np.ndarray
COARSEST = 5  # bins between the pixels of a spectrum, in the median: beyond, there are no lines in it


def pixel_edges(centres: Array) -> Array:
    """Borders of pixels (N + 1,) halfway between their centres (N,); the outer ones as far out as in."""
    if len(centres) < 2:
        raise ValueError(f"{len(centres)} pixel: its borders cannot be told; expected two or more")
    inner = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - inner[0]], inner, [2 * centres[-1] - inner[-1]]])


def pixel_reach(centres: Array) -> Array:
    """How far from its centre each pixel (N,) can count, N >= 2: three times the way to its nearer neighbour."""
    gaps = np.diff(centres)
    near = np.minimum(np.concatenate([gaps[:1], gaps]), np.concatenate([gaps, gaps[-1:]]))
    near[[0, -1]] = near[[1, -2]]  # a last pixel beyond a hole does not span it
    return np.asarray(3 * near)


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Which part of which pixel falls into which bin: the borders of both, sorted, cut the axis into segments.

    Attributes:
        source, target: (S,) pixel and bin of each segment; ``target`` never decreases.
        middle, width: (S,) in angstrom.
        bins: those that some pixel reaches, increasing; ``starts``: their first segments.
        size: number of bins.
    """

    source: Array
    target: Array
    middle: Array
    width: Array
    bins: Array
    starts: Array
    size: int

    @classmethod
    def between(cls, pixels: Array, bins: Array) -> "Overlaps":
        """Of pixels with borders (N + 1,) and bins with borders (L + 1,)."""
        cuts = np.union1d(pixels, bins)
        cuts = cuts[(cuts >= max(pixels[0], bins[0])) & (cuts <= min(pixels[-1], bins[-1]))]
        middle = (cuts[1:] + cuts[:-1]) / 2
        target = np.searchsorted(bins, middle) - 1
        found, starts = np.unique(target, return_index=True)
        return cls(np.searchsorted(pixels, middle) - 1, target, middle, np.diff(cuts), found, starts, len(bins) - 1)

    def sum(self, values: Array) -> Array:
        """Sums of (B, S) over the segments of each bin: (B, L), zero where there are none."""
        total = np.zeros((len(values), self.size), values.dtype)
        if len(self.bins):
            total[:, self.bins] = np.add.reduceat(values, self.starts, axis=1)
        return total


@dataclass(frozen=True)
class Preprocessing:
    r"""Resample to a fixed log-wavelength grid, fill gaps, normalise, stack channels. A model's checkpoint holds it.

    The mean flux density of a bin conserves flux: with overlap :math:`w_i` of pixel i, good pixels only,

    .. math:: f = \frac{\sum_i w_i f_i}{\sum_i w_i}, \qquad
        \sigma^2 = \frac{\sum_i w_i^2 \sigma_i^2}{(\sum_i w_i)^2}

    A bin of which less than half is covered is a gap: straight lines across it, ivar 0. So is a stretch without pixels.
    """

    axis: Literal["log", "pixels"] = "log"
    """log: wavelengths are resampled; pixels: files without an axis, of exactly ``size`` pixels, as they are"""
    first: float = 3.5682
    """log10 of the first bin's centre in vacuum angstrom (3,700: LAMOST's own first pixel)"""
    step: float = 1.5e-4
    """bin width in log10 of wavelength (104 km/s); LAMOST's and SDSS's pixels are 1e-4"""
    size: int = 2600
    """number of bins; with first and step, up to 9,082 angstrom"""
    normalisation: Literal["scale", "asinh"] = "scale"
    """scale: flux / scale, the article's; asinh: asinh(flux / median of its absolute value), free of any unit"""
    scale: float = 100.0
    """what fluxes are divided by where normalisation is scale"""
    noise_channel: bool = False
    """a second channel, log10(1 + median^2 ivar) / 2: the S/N that the median flux would have in each bin, 0 in gaps"""
    min_coverage: float = 0.25
    """share of the bins that a spectrum has to cover"""

    def __post_init__(self) -> None:
        if self.size < 1 or self.step <= 0 or self.scale <= 0 or not 0 < self.min_coverage <= 1:
            raise UserError(f"{self}: size, step and scale must be positive, min_coverage from 0 to 1")

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """From what `plain` returned."""
        return cls(**values)

    def plain(self) -> dict[str, Any]:
        """As plain types, for a checkpoint."""
        return dataclasses.asdict(self)

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return 2 if self.noise_channel else 1

    @property
    def wavelength(self) -> Array:
        """(L,) centres of the bins in vacuum angstrom; pixel numbers where the axis is one of pixels."""
        if self.axis == "pixels":
            return np.arange(self.size, dtype=np.float64)
        return 10 ** (self.first + self.step * np.arange(self.size))

    @property
    def edges(self) -> Array:
        """(L + 1,) borders of the bins in vacuum angstrom."""
        return 10 ** (self.first + self.step * (np.arange(self.size + 1) - 0.5))

    def __call__(self, spectrum: Spectrum) -> Array:
        """One spectrum -> (C, L) float32.

        Raises:
            UserError: no axis, pixels too far apart, too little of the grid covered, nothing but zeros, a flux in
                another unit than that of the training where normalisation is scale.
        """
        name = spectrum.meta.get("file", "spectrum")
        flux, ivar = spectrum.flux[None], None if spectrum.ivar is None else spectrum.ivar[None]
        good = ~spectrum.mask[None]
        if not good.any():
            raise UserError(f"{name}: no usable pixel: all {len(spectrum)} are masked or no numbers")
        if self.axis == "pixels":
            if len(spectrum) != self.size:
                raise UserError(f"{name}: {len(spectrum)} pixels; this model takes spectra of {self.size} as they are")
            values, errors, covered = flux * good, np.zeros_like(flux) if ivar is None else ivar, good
        else:
            if spectrum.wavelength is None:
                raise UserError(
                    f"{name}: no wavelength axis in it, and none is made up: give one (read_spectrum(wavelength=..), "
                    "--wavelength FILE), or use a model trained on pixels"
                )
            if len(spectrum) < 2:
                raise UserError(f"{name}: one pixel; expected a spectrum")
            apart = float(np.median(np.diff(np.log10(spectrum.wavelength)))) / self.step
            if apart > COARSEST:
                raise UserError(
                    f"{name}: {len(spectrum)} pixels {apart:.1f} bins of this model apart; expected at most {COARSEST}"
                )
            values, errors, covered = self.resample(spectrum.wavelength, flux, ivar, good)
        if self.noise_channel and ivar is None:
            raise UserError(f"{name}: no errors in it, and this model was trained with them (noise_channel)")
        share = covered.mean()
        if share < self.min_coverage:
            raise UserError(
                f"{name}: {len(spectrum)} pixels cover {100 * share:.0f} % of {self.wavelength[0]:.0f} to "
                f"{self.wavelength[-1]:.0f}; this model needs {100 * self.min_coverage:.0f} %"
            )
        if not values[covered].any():
            raise UserError(f"{name}: the flux is zero everywhere")
        level = np.median(np.abs(values[covered]))
        if self.normalisation == "scale" and level < 1e-6 * self.scale:
            raise UserError(
                f"{name}: a median flux of {level:.2g}; this model divides by {self.scale:g}: give the flux in the "
                "unit of its training (SDSS's is 1e-17 erg/s/cm2/A), or use a model with --normalisation asinh"
            )
        return cast(Array, self.normalise(fill_gaps(values, covered), errors)[0])

    def resample(
        self, wavelength: Array, flux: Array, ivar: Array | None = None, good: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """Spectra (B, N) on one axis (N,) -> flux (B, L), ivar (B, L), covered (B, L) bool.

        Without ``ivar`` the returned one is zero. A pixel of ivar 0 counts as masked.
        """
        overlaps = Overlaps.between(pixel_edges(wavelength), self.edges)
        near = np.abs(overlaps.middle - wavelength[overlaps.source]) <= pixel_reach(wavelength)[overlaps.source]
        width = (overlaps.width * near).astype(np.float32)
        weight = np.broadcast_to(width, (len(flux), len(width)))
        if good is None and ivar is not None:
            good = ivar > 0
        if good is not None:
            weight = weight * good[:, overlaps.source]
        total = overlaps.sum(weight)
        covered = total > 0.5 * np.diff(self.edges).astype(np.float32)
        safe = np.where(covered, total, 1)
        values = np.where(covered, overlaps.sum(weight * flux[:, overlaps.source]) / safe, 0)
        if ivar is None:
            return values.astype(np.float32), np.zeros(values.shape, np.float32), covered
        variance = 1 / np.where(ivar > 0, ivar, 1)
        spread = overlaps.sum(weight * weight * variance[:, overlaps.source])
        return values.astype(np.float32), np.where(covered, safe**2 / np.where(covered, spread, 1), 0), covered

    def normalise(self, flux: Array, ivar: Array) -> Array:
        """Flux and ivar (B, L), without gaps -> (B, C, L) float32."""
        level = np.median(np.abs(flux), axis=1, keepdims=True)
        level = np.where(level > 0, level, np.maximum(np.abs(flux).max(axis=1, keepdims=True), 1e-30))
        values = flux / self.scale if self.normalisation == "scale" else np.arcsinh(flux / level)
        if not self.noise_channel:
            return values[:, None].astype(np.float32)
        noise = np.log10(1 + level.astype(ivar.dtype) ** 2 * ivar) / 2
        return np.stack([values, noise], axis=1).astype(np.float32)

    def batch(self, wavelength: Array, flux: Array, ivar: Array) -> Array:
        """Many spectra (B, N) on one axis (N,), ivar 0 where masked -> (B, C, L): what `__call__` gives one by one."""
        values, errors, covered = self.resample(wavelength, flux, ivar)
        return self.normalise(fill_gaps(values, covered), errors)


def fill_gaps(values: Array, covered: Array) -> Array:
    """Straight lines across the gaps of (B, L), the nearest value beyond the ends; a row without any value is zero."""
    filled = np.where(covered, values, 0)
    place = np.arange(values.shape[1])
    for row in np.flatnonzero(~covered.all(axis=1) & covered.any(axis=1)):
        known = covered[row]
        filled[row, ~known] = np.interp(place[~known], place[known], values[row, known])
    return filled
