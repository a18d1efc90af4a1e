"""`read_spectrum`: one spectrum from any of the files that LAMOST, SDSS, a competition or a colleague hands out."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectra.fits_files import Flags, read_content, read_fits
from spectra.spectrum import CLASSES, Spectrum, Unit, make_spectrum
from trainer import UserError

FITS, NUMPY, TEXT = (".fits", ".fit", ".fits.fz"), (".npy", ".npz"), (".txt", ".csv", ".tsv")
ENDINGS = tuple(ending + packed for ending in (*FITS, *NUMPY, *TEXT) for packed in ("", ".gz"))

# what the columns of a table are called, in any case
NAMES = {
    "wavelength": ("wavelength", "wave", "lambda", "lam", "wavelength_vac", "wavelength_vacuum"),
    "log10": ("loglam", "log_lam", "log_wavelength", "logwave"),
    "flux": ("flux", "flam", "f_lambda", "intensity", "counts"),
    "ivar": ("ivar", "inverse_variance", "invvar"),
    "error": ("error", "err", "sigma", "flux_error", "flux_err", "e_flux", "uncertainty"),
    "mask": ("mask", "andmask", "and_mask", "flag"),
}


def read_spectrum(
    path: str | Path,
    *,
    wavelength: Sequence[float] | np.ndarray | None = None,
    wavelength_unit: Unit = "angstrom",
    air: bool = False,
    flags: Flags = "and",
) -> Spectrum:
    """Read a spectrum; the format is told from the content, not from the name alone.

    FITS (LAMOST of any release, SDSS, BOSS); text with columns of wavelength, flux and perhaps ivar or
    error (comma, tab, semicolon or space, with or without a header); the competition's ``id.txt``, one line of fluxes
    without an axis; ``.npy`` of (L,), (2, L) or (3, L): flux, or wavelength and flux, or both and ivar; ``.npz`` with
    arrays of those names. Each of them gzipped or not. A third column without a name is ivar, but not below a comment
    that might name it and does not.

    Args:
        path: the file.
        wavelength: the axis of a file that has none (its pixel numbers are no axis: none is made up); a file that has
            one keeps its own.
        wavelength_unit: of a text or numpy file, or of ``wavelength``: angstrom, nm, um or log10 (of angstrom).
        air: the wavelengths of a text or numpy file are of air; FITS files say so themselves.
        flags: which mask of a FITS file counts: ``and`` (flagged in every exposure), ``or`` (in any), ``none``.

    Returns:
        A `Spectrum` on vacuum wavelengths, or with ``wavelength=None``.

    Raises:
        UserError: names the file, what is wrong and what was expected.
    """
    path = Path(path)
    if flags not in ("and", "or", "none"):
        raise UserError(f"flags is {flags!r}; expected 'and', 'or' or 'none'")
    try:
        if not path.is_file():
            raise UserError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; expected a spectrum")
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem})") from problem
    content = read_content(path)
    name = path.name.lower().removesuffix(".gz")
    if content.startswith(b"SIMPLE") or name.endswith(FITS):
        return read_fits(path, content, flags)
    columns = _numpy_columns(path, content) if name.endswith(NUMPY) else _text_columns(path, content)
    unit = wavelength_unit
    if "log10" in columns:
        columns["wavelength"], unit = columns.pop("log10"), "log10"
    if wavelength is not None and "wavelength" not in columns:
        columns["wavelength"] = np.asarray(wavelength, np.float64)
    if "error" in columns and "ivar" not in columns:
        error = columns["error"]
        with np.errstate(divide="ignore"):
            columns["ivar"] = np.where(error > 0, 1 / error**2, 0.0)
    if "flux" not in columns:
        raise UserError(f"{path}: no flux in it; expected a column named {' or '.join(NAMES['flux'])}")
    return make_spectrum(
        columns["flux"],
        columns.get("wavelength"),
        columns.get("ivar"),
        columns.get("mask"),
        {"file": str(path), "layout": "table" if "wavelength" in columns else "fluxes", "id": path.stem},
        air=air,
        unit=unit,
    )


def _named(columns: Sequence[str]) -> dict[str, int]:
    """Which column is what; the first that answers to a name."""
    clean = [re.sub(r"[\[(].*", "", name).strip().lower() for name in columns]
    return {key: clean.index(n) for key, names in NAMES.items() for n in reversed(names) if n in clean}


def _by_position(array: np.ndarray, path: Path) -> dict[str, np.ndarray]:
    """(L,), or two or three rows (columns) without names."""
    if array.ndim == 2 and array.shape[0] > array.shape[1]:
        array = array.T
    if array.ndim == 1 or (array.ndim == 2 and len(array) == 1):
        return {"flux": array.ravel()}
    if array.ndim != 2 or len(array) > 3:
        raise UserError(f"{path}: shape {array.shape}; expected flux, or wavelength and flux, or both and ivar")
    return dict(zip(("wavelength", "flux", "ivar"), array, strict=False))


def _numpy_columns(path: Path, content: bytes) -> dict[str, Any]:
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(found, np.ndarray):
            return _by_position(found.astype(np.float64), path)
        with found:
            names = _named(found.files)
            return {key: found[found.files[index]].astype(np.float64) for key, index in names.items()}
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: not a numpy file of numbers ({error})") from error


def _text_columns(path: Path, content: bytes) -> dict[str, Any]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: neither FITS, numpy nor UTF-8 text ({error})") from error
    lines = [line for line in text.splitlines() if line.strip()]
    headers = []
    while lines and _is_header(lines[0]):
        headers.append(lines.pop(0).strip(" "))
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    if not lines:
        raise UserError(f"{path}: no numbers in it; expected columns, or one line of fluxes")
    separator = next((s for s in (",", "\t", ";") if s in lines[0]), None)
    try:
        if separator is None:
            table = np.array([line.split() for line in lines], dtype=np.float64)
        else:
            table = np.array([line.rstrip(" " + separator).split(separator) for line in lines], dtype=np.float64)
    except ValueError as error:
        raise UserError(f"{path}: a row that is not as many numbers as the first ({error})") from error
    for header in headers:
        names = _header_names(header)
        found = _named(names)
        if "flux" in found and len(names) == table.shape[1]:
            return {key: table[:, index] for key, index in found.items()}
    plain = [header for header in headers if not header.startswith("#")]
    if plain or (min(table.shape) == 3 and re.search(r"[^\W\d_]", "".join(headers))):
        raise UserError(
            f"{path}: the header is {[*headers, *plain][-1]!r}; expected a column named {' or '.join(NAMES['flux'])}, "
            f"and a name for each of the {table.shape[1]} numbers in a row"
        )
    return _by_position(table.squeeze(), path) if table.size > 1 else {"flux": table.ravel()}


def _header_names(header: str) -> list[str]:
    """By the header's own separator, which need not be that of the numbers; units in brackets left out."""
    header = re.sub(r"[\[(][^\])]*[\])]", "", header.lstrip("# ")).rstrip(",;\t ")
    separator = next((s for s in (",", "\t", ";") if s in header), None)
    return [name.strip(" \"'\t") for name in header.split(separator)]


def _is_header(line: str) -> bool:
    first = re.split(r"[,;\t ]+", line.strip())[0]
    try:
        float(first)
    except ValueError:
        return True
    return False


def read_index(index: str | Path, folder: str | Path | None = None) -> Iterator[tuple[Path, str]]:
    """The competition's index: rows ``id,type`` -> the file of each spectrum and its class.

    Args:
        index: the csv, with its header.
        folder: of the ``id.txt`` files; None: that of the index.

    Raises:
        UserError: no such file, another header, a type that is none of star, unknown, galaxy, qso.
    """
    index = Path(index)
    folder = index.parent if folder is None else Path(folder)
    try:
        rows = list(csv.reader(io.StringIO(index.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{index}: cannot be read ({error}); expected a csv of id,type") from error
    if not rows or [cell.strip() for cell in rows[0]][:2] != ["id", "type"]:
        raise UserError(f"{index}: the first row is {','.join(rows[0]) if rows else 'missing'}; expected id,type")
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) < 2 or row[1].strip() not in CLASSES:
            raise UserError(
                f"{index}, line {number}: {','.join(row)!r}; expected an id and one of {', '.join(CLASSES)}"
            )
        yield folder / f"{row[0].strip()}.txt", row[1].strip()
