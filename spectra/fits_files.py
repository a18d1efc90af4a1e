"""FITS layouts: LAMOST's two, its pilot's, the spec files of SDSS and BOSS, SDSS's older spSpec. ``N``: pixels."""

import gzip
import io
import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spectra.spectrum import Spectrum, make_spectrum
from trainer import UserError

Flags = Literal["and", "or", "none"]

LAMOST_COLUMNS = {"and": "ANDMASK", "or": "ORMASK"}
SDSS_COLUMNS = {"and": "AND_MASK", "or": "OR_MASK"}
EXPECTED = (
    "expected LAMOST (an image of five rows, or a table COADD with FLUX and WAVELENGTH) or SDSS (a table with flux and "
    "loglam in HDU 1)"
)
EMISSION_LINE = 0x40000000  # SP_MASK_EMLINE of SDSS to DR7: nothing is wrong with such a pixel
FORMATS = {"L": "S1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "C": ">c8", "M": ">c16"}


def read_fits(path: Path, content: bytes, flags: Flags = "and") -> Spectrum:
    """A LAMOST or SDSS file.

    The layout is told from what is there, not from the version keyword, which files of the table layout get wrong.

    Args:
        path: the file, for what is said of it.
        content: what is in it, unpacked (`read_content`).
        flags: which mask of the file counts: pixels flagged in every exposure (``and``), in any (``or``), or none.

    Raises:
        UserError: astropy is missing, the file is damaged, or neither layout fits.
    """
    try:
        from astropy.io import fits
    except ImportError:
        raise UserError(f"{path}: reading FITS needs astropy; install it with: pip install astropy") from None
    try:
        with fits.open(io.BytesIO(content), memmap=False) as hdus:
            if hdus[0].data is not None:
                return _image(path, hdus[0], flags)
            try:
                table = hdus[1]  # and not len(hdus), which would read all of them
            except IndexError:
                raise UserError(f"{path}: one HDU, and it is empty; {EXPECTED}") from None
            if isinstance(table, fits.CompImageHDU):
                return _image(path, table, flags)
            names = [str(table.header[key]).upper() for key in table.header if key.startswith("TTYPE")]
            if "LOGLAM" in names:
                place = table.fileinfo()
                rows = _rows(content, place["hdrLoc"])
                return _sdss(path, hdus[0].header, rows, _rows(content, place["datLoc"] + place["datSpan"]), flags)
            if "WAVELENGTH" in names:
                return _lamost_table(path, hdus[0].header, table, flags)
            raise UserError(f"{path}: HDU 1 has the columns {', '.join(names) or 'of no table'}; {EXPECTED}")
    except UserError:
        raise
    except Exception as error:  # astropy raises a dozen types for a damaged file
        reason = (str(error).splitlines() or [""])[0][:100]
        raise UserError(f"{path}: not a readable FITS file ({type(error).__name__}: {reason})") from error


def read_content(path: Path) -> bytes:
    """The bytes of a file, unpacked where it is gzipped.

    Raises:
        UserError: it cannot be read, or is damaged.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _meta(path: Path, header: Any, layout: str) -> dict[str, Any]:
    names = {"class": "CLASS", "subclass": "SUBCLASS", "z": "Z", "id": "DESIG", "obsid": "OBSID", "release": "DATA_V"}
    found = {key: header[keyword] for key, keyword in names.items() if keyword in header}
    return {"file": str(path), "layout": layout, **found}


def _log_axis(path: Path, header: Any, size: int) -> np.ndarray:
    if "COEFF0" not in header or "COEFF1" not in header:
        raise UserError(f"{path}: HDU 0 has no COEFF0 and COEFF1; expected them, for the file has no wavelength row")
    return 10.0 ** (header["COEFF0"] + header["COEFF1"] * np.arange(size))


def _image(path: Path, hdu: Any, flags: Flags) -> Spectrum:
    """LAMOST to DR7: rows flux, ivar, wavelength, and-mask, or-mask; the pilot's third is a flux without continuum.

    SDSS to DR7 (spSpec): rows flux, flux without continuum, its sigma, mask, and what depends on the release.
    """
    rows, header = hdu.data, hdu.header
    if str(header.get("TELESCOP", "")).startswith("SDSS"):
        return _spspec(path, rows, header, flags)
    if rows.ndim != 2 or len(rows) < 5:
        raise UserError(f"{path}: HDU 0 is an image of shape {rows.shape}; expected LAMOST's five rows (5, N)")
    wavelength = rows[2].astype(np.float64)
    # wavelengths increase from 3,700 angstrom on; a flux without continuum wavers about zero
    pilot = wavelength.min() <= 0 or not (np.diff(wavelength) > 0).all()
    if pilot:
        wavelength = _log_axis(path, header, rows.shape[1])
    bad = {"and": rows[3], "or": rows[4], "none": None}[flags]
    meta = _meta(path, header, "LAMOST pilot image" if pilot else "LAMOST image")
    return make_spectrum(rows[0], wavelength, rows[1], bad, meta, air=header.get("VACUUM") is False)


def _spspec(path: Path, rows: np.ndarray, header: Any, flags: Flags) -> Spectrum:
    if rows.ndim != 2 or len(rows) < 4:
        raise UserError(f"{path}: HDU 0 is an image of shape {rows.shape}; expected the rows of SDSS's spSpec (5, N)")
    sigma = rows[2].astype(np.float64)
    ivar = np.where(sigma > 0, sigma, np.inf) ** -2.0
    bad = None if flags == "none" else rows[3].astype(np.int64) & ~EMISSION_LINE
    meta = {"file": str(path), "layout": "SDSS spSpec"} | ({"z": header["Z"]} if "Z" in header else {})
    wavelength = _log_axis(path, header, rows.shape[1])
    return make_spectrum(rows[0], wavelength, ivar, bad, meta, air=header.get("VACUUM") is False)


def _lamost_table(path: Path, header: Any, hdu: Any, flags: Flags) -> Spectrum:
    """DR9 and later: one row of arrays."""
    table = hdu.data
    if len(table) != 1:
        raise UserError(f"{path}: HDU 1 has {len(table)} rows; expected one row of arrays, as LAMOST writes it")
    columns = {name.upper(): table[name][0] for name in table.names}
    for name in ("FLUX", "IVAR"):
        if name not in columns:
            raise UserError(f"{path}: HDU 1 lacks the column {name}; {EXPECTED}")
    bad = columns.get(LAMOST_COLUMNS.get(flags, ""))
    meta = _meta(path, header, "LAMOST table")
    return make_spectrum(
        columns["FLUX"], columns["WAVELENGTH"], columns["IVAR"], bad, meta, air=header.get("VACUUM") is False
    )


def _sdss(path: Path, header: Any, table: np.ndarray, about: np.ndarray, flags: Flags) -> Spectrum:
    """SDSS, BOSS and eBOSS: a row a pixel; class and redshift in HDU 2."""
    columns = {name.upper(): table[name] for name in table.dtype.names or ()}
    if "FLUX" not in columns:
        raise UserError(f"{path}: HDU 1 lacks the column flux; {EXPECTED}")
    bad = columns.get(SDSS_COLUMNS.get(flags, ""))
    meta: dict[str, Any] = {"file": str(path), "layout": "SDSS"}
    if len(about):
        first = {name.upper(): about[name][0] for name in about.dtype.names or ()}
        meta |= {k.lower(): first[k].decode("ascii", "replace").strip() for k in ("CLASS", "SUBCLASS") if k in first}
        meta |= {"z": float(first["Z"])} if "Z" in first else {}
    wavelength = 10.0 ** columns["LOGLAM"].astype(np.float64)
    return make_spectrum(columns["FLUX"], wavelength, columns.get("IVAR"), bad, meta, air=header.get("VACUUM") is False)


def _rows(content: bytes, begin: int) -> np.ndarray:
    """The binary table whose header begins at that byte, a structured array; without rows where the file ends before.

    By hand: astropy takes 50 ms to make sense of the 236 columns of HDU 2, thirty times what the spectrum takes.

    Raises:
        ValueError: the file ends within the table.
    """
    end = content.find(b"END" + b" " * 77, begin)
    if end < 0:
        return np.empty(0)
    header = content[begin:end]
    start = begin + -(-(len(header) + 80) // 2880) * 2880
    layout = _layout(tuple(re.findall(rb"(TTYPE\d+|TFORM\d+|TSCAL\d+|TZERO\d+|NAXIS1) *= *'? *([^' /]*)", header)))
    count = re.search(rb"NAXIS2 *= *(\d+)", header)
    return np.frombuffer(content, layout, int(count[1]) if count else 0, start)


@lru_cache(maxsize=64)
def _layout(cards: tuple[tuple[bytes, bytes], ...]) -> np.dtype:
    """Of a row, from its header's cards, which files of one release share; scaled columns are left out."""
    values = {key.decode("ascii"): value.decode("ascii", "replace") for key, value in cards}
    names, formats, offsets, offset = [], [], [], 0
    for column in range(1, sum(key.startswith("TFORM") for key in values) + 1):
        form = re.fullmatch(r"(\d*)([A-Z]).*", values[f"TFORM{column}"])
        if form is None or (form[2] not in FORMATS and form[2] != "A"):
            break  # bits and variable lengths, which stand behind what is wanted
        count = int(form[1] or 1)
        kind = np.dtype(f"S{count}") if form[2] == "A" else np.dtype((FORMATS[form[2]], (count,) if count != 1 else ()))
        if not {f"TSCAL{column}", f"TZERO{column}"} & values.keys():
            names.append(values.get(f"TTYPE{column}", f"column {column}"))
            formats.append(kind)
            offsets.append(offset)
        offset += kind.itemsize
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": int(values["NAXIS1"])})
