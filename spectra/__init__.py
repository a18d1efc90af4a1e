"""Spectra of LAMOST and SDSS: read them, simulate them, classify them as star, unknown, galaxy or quasar."""

from typing import Any

from spectra.network import SpectraNet
from spectra.preprocess import Preprocessing
from spectra.reader import read_index, read_spectrum
from spectra.spectrum import CLASSES, SURVEY_SHARES, Spectrum, air_to_vacuum, vacuum_to_air

__all__ = [
    "CLASSES",
    "SURVEY_SHARES",
    "Preprocessing",
    "Spectra",
    "SpectraNet",
    "Spectrum",
    "air_to_vacuum",
    "read_index",
    "read_spectrum",
    "simulate",
    "vacuum_to_air",
]


def __getattr__(name: str) -> Any:
    """`simulate` and `Spectra` on first use: a command whose module the package loads is one Python warns of."""
    if name in ("simulate", "Spectra"):
        from spectra import simulator

        return getattr(simulator, name)
    raise AttributeError(f"module 'spectra' has no attribute {name!r}")
