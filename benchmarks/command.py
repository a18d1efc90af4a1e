r"""What the benchmarks' command lines share: paths that are looked at before the work, a missing peer in one line."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path


def existing(text: str) -> Path:
    """A file or folder to read, for argparse."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text!r}: no such file or folder")
    return Path(text)


def writable(text: str) -> Path:
    """A file to write in a folder that is there, for argparse."""
    if Path(text).is_dir() or not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: name a file in a folder that exists")
    return Path(text)


def with_threads(threads: int) -> dict[str, str]:
    """The environment of a peer's process that may use so many threads: OpenMP's and TensorFlow's."""
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads))}


def run(main: Callable[[], object]) -> None:
    """Run a benchmark; a package that it measures and that is not installed is one line."""
    try:
        main()
    except ModuleNotFoundError as fault:
        sys.exit(f"error: {fault.name} is not installed; pip install it, or the extra [bench] of this package")
