"""Spectra of LAMOST and SDSS: read them, simulate them, classify them as star, unknown, galaxy or quasar."""

from spectra.network import SpectraNet
from spectra.preprocess import Preprocessing
from spectra.reader import read_index, read_spectrum
from spectra.simulate import Spectra, simulate
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
