r"""One spectrum: flux over vacuum wavelength, and what of it can be trusted. Legend: ``L`` pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from trainer import UserError

Array = np.ndarray
Unit = Literal["angstrom", "nm", "um", "log10"]

CLASSES = ("star", "unknown", "galaxy", "qso")  # in the article's order
SURVEY_SHARES = (0.9155, 0.0709, 0.0108, 0.0028)  # of them among the competition's 483,851 training spectra
OPTICAL = (800.0, 30_000.0)  # angstrom: what a spectrum with stars, galaxies and quasars in it can begin and end at
FACTORS = {"angstrom": 1.0, "nm": 10.0, "um": 1e4}


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A spectrum as it was read.

    Attributes:
        flux: (L,) float32, in the file's own unit; zero where the file had no number.
        wavelength: (L,) float64, vacuum angstrom, increasing; None where the file has no axis and none was given.
        ivar: (L,) float32, inverse variance of the flux, zero where masked; None where the file has no errors. float64
            where it passes 1e30, as that of a flux in erg/s/cm2/A can: sums and inverses of it leave float32.
        mask: (L,) bool, True for pixels not to use: no number, ivar 0, or flagged in the file.
        meta: what the file says of itself: ``file``, ``layout``, ``class``, ``subclass``, ``z``, ``id`` where known.
    """

    flux: Array
    wavelength: Array | None
    ivar: Array | None
    mask: Array
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.flux)


def make_spectrum(
    flux: Array,
    wavelength: Array | None,
    ivar: Array | None = None,
    bad: Array | None = None,
    meta: Mapping[str, Any] | None = None,
    *,
    air: bool = False,
    unit: Unit = "angstrom",
) -> Spectrum:
    """Check the arrays of one spectrum, mark the pixels that cannot be used, and bring the axis to vacuum angstrom.

    Args:
        flux, wavelength, ivar: (L,) of any byte order; NaN and infinities are marked, not kept.
        bad: (L,) True (or a flag other than zero) for pixels that the file says not to use.
        meta: goes into the spectrum; ``meta["file"]`` begins every error.
        air: the wavelengths are of air.
        unit: of the wavelengths; ``log10`` is log10 of angstrom.

    Raises:
        UserError: lengths that differ, an axis that does not increase or cannot be in that unit, no pixel at all.
    """
    meta = dict(meta or {})
    name = meta.get("file", "spectrum")
    flux = np.asarray(flux).astype(np.float32).ravel()
    if not len(flux):
        raise UserError(f"{name}: no pixels; expected a flux a pixel")
    for what, array in (("wavelengths", wavelength), ("inverse variances", ivar), ("mask values", bad)):
        if array is not None and np.size(array) != len(flux):
            raise UserError(f"{name}: {len(flux)} fluxes but {np.size(array)} {what}; expected one a pixel")
    mask = ~np.isfinite(flux)
    if ivar is not None:
        ivar = np.asarray(ivar).astype(np.float64).ravel()
        mask |= ~(np.isfinite(ivar) & (ivar > 0))
        ivar = np.where(mask, 0, ivar)
        ivar = ivar if ivar.max() > 1e30 else ivar.astype(np.float32)
    if bad is not None:
        mask |= np.asarray(bad).ravel() != 0
    if wavelength is not None:
        wavelength = to_vacuum_angstrom(np.asarray(wavelength).astype(np.float64).ravel(), name, air, unit)
        if len(wavelength) > 1 and wavelength[0] > wavelength[-1]:
            flux, wavelength, mask = flux[::-1], wavelength[::-1], mask[::-1]
            ivar = ivar[::-1] if ivar is not None else None
        if not (np.diff(wavelength) > 0).all():
            row = int(np.argmin(np.diff(wavelength) > 0))
            raise UserError(f"{name}: the wavelengths do not increase at pixel {row + 1}; expected a sorted axis")
    return Spectrum(
        np.where(np.isfinite(flux), flux, np.float32(0)),
        wavelength,
        np.where(mask, ivar.dtype.type(0), ivar) if ivar is not None else None,
        mask,
        meta,
    )


def to_vacuum_angstrom(wavelength: Array, name: str, air: bool, unit: Unit) -> Array:
    """An axis in vacuum angstrom; numbers that cannot be in that unit are an error that guesses the right one."""
    if not np.isfinite(wavelength).all():
        raise UserError(f"{name}: a wavelength that is no number; expected {unit} at every pixel")
    low, high = float(wavelength.min()), float(wavelength.max())
    with np.errstate(over="ignore"):
        scaled = 10.0**wavelength if unit == "log10" else wavelength * FACTORS[unit]
    if not OPTICAL[0] <= scaled.min() <= scaled.max() <= OPTICAL[1]:
        guesses = [u for u, f in FACTORS.items() if OPTICAL[0] <= low * f and high * f <= OPTICAL[1]]
        if np.log10(OPTICAL[0]) <= low and high <= np.log10(OPTICAL[1]):
            guesses = ["log10", *guesses]
        hint = f"they look like {guesses[0]}: say so with wavelength_unit={guesses[0]!r}" if guesses else "no unit fits"
        raise UserError(f"{name}: wavelengths from {low:g} to {high:g} are not optical in {unit}; {hint}")
    return air_to_vacuum(scaled) if air else scaled


def refractive_index(vacuum: Array) -> Array:
    r"""Of standard air at a vacuum wavelength in angstrom (Ciddor 1996, eq. 1; valid from 2,300 to 17,000 angstrom).

    .. math:: 10^8 (n - 1) = \frac{5792105}{238.0185 - \sigma^2} + \frac{167917}{57.362 - \sigma^2}, \quad
        \sigma = 10^4 / \lambda
    """
    square = (1e4 / np.asarray(vacuum, np.float64)) ** 2
    index = 1 + 5.792105e-2 / (238.0185 - square) + 1.67917e-3 / (57.362 - square)
    return np.where(np.asarray(vacuum) < 2000, 1.0, index)  # below 2,000 angstrom everybody quotes vacuum


def vacuum_to_air(vacuum: Array) -> Array:
    """Wavelengths in air, angstrom in and out; unchanged below 2,000."""
    return np.asarray(vacuum, np.float64) / refractive_index(vacuum)


def air_to_vacuum(air: Array) -> Array:
    """The inverse of `vacuum_to_air`, to 1e-9 angstrom: four steps of fixed-point iteration."""
    air = np.asarray(air, np.float64)
    vacuum = air
    for _ in range(4):
        vacuum = air * refractive_index(vacuum)
    return vacuum
