r"""One file for an index: arrays beside a manifest, memory-mapped, written atomically, never unpickled.

The file is a plain `.npz` (numpy.load reads it) whose members are stored uncompressed and aligned, so that each array
can be mapped where it lies, and whose `manifest.json` says what it is.
"""

import contextlib
import fcntl
import json
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer import UserError, write_atomically

MANIFEST = "manifest.json"
ALIGN = 64  # bytes: a cache line, and what the widest vector instructions like
LOCAL_HEADER = 30  # bytes of a zip member's header before its name
ZIP64_EXTRA = 20  # bytes that zipfile adds to it
CHUNK = 1 << 24  # bytes written at a time
PADDING_ID = 0x4E50  # of an extra field that other readers pass over


def write(path: Path, manifest: Mapping[str, Any], arrays: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Write manifest and arrays into one file: the old file or the whole new one, whatever happens.

    Args:
        arrays: name -> parts of an array, to be joined along the first axis as they are written; one at least.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """

    def fill(file: Any) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            archive.writestr(MANIFEST, json.dumps(dict(manifest), ensure_ascii=False, indent=1))
            for name, parts in arrays.items():
                info = zipfile.ZipInfo(f"{name}.npy")
                start = file.tell() + LOCAL_HEADER + len(info.filename.encode()) + ZIP64_EXTRA + 4
                padding = -start % ALIGN
                info.extra = struct.pack("<HH", PADDING_ID, padding) + b"\0" * padding
                with archive.open(info, "w", force_zip64=True) as member:
                    header = np.lib.format.header_data_from_array_1_0(parts[0][:0])
                    header["shape"] = (sum(map(len, parts)), *parts[0].shape[1:])
                    np.lib.format.write_array_header_1_0(member, header)
                    for part in parts:
                        flat = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
                        for first in range(0, flat.nbytes, CHUNK):
                            member.write(flat[first : first + CHUNK].tobytes())

    write_atomically(path, fill)


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Manifest and arrays, each mapped where it lies; writing to one does not reach the file.

    Raises:
        UserError: missing, cut short, or not written by `write`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no index there; build one with: python -m similarity.index build")
    try:
        # opened once: by its name a writer may have put another file there meanwhile
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            manifest = json.loads(archive.read(MANIFEST))
            members = [info for info in archive.infolist() if info.filename != MANIFEST]
            arrays = {info.filename.removesuffix(".npy"): _mapped(file, info) for info in members}
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError, struct.error) as error:
        raise UserError(
            f"{path}: not an index, or cut short ({type(error).__name__}: {error}); if it was one, delete it first"
        ) from error
    return manifest, arrays


def _mapped(file: BinaryIO, info: zipfile.ZipInfo) -> np.ndarray:
    file.seek(info.header_offset)
    name_length, extra_length = struct.unpack("<26xHH", file.read(LOCAL_HEADER))
    start = info.header_offset + LOCAL_HEADER + name_length + extra_length
    file.seek(start)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{info.filename} has another version of the npy header")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds objects, which would have to be unpickled")
    offset = file.tell()
    if offset + int(np.prod(shape)) * dtype.itemsize != start + info.file_size:
        raise ValueError(f"{info.filename} is not as long as its shape {shape} says")
    if 0 in shape:
        return np.empty(shape, dtype)  # nothing can be mapped of nothing
    return np.memmap(file, dtype, "c", offset, shape)  # private: torch wants writable memory, the file stays as it is


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the right to write `path`, among threads and processes of this machine; waits for another writer."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise UserError(f"{path}: cannot be written there ({error})") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def generation(path: Path) -> str | None:
    """Which save a file is of; None where there is none."""
    return read(path)[0].get("generation") if path.exists() else None
