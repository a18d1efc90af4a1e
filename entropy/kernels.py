"""The compiled kernels on disk: never those of another version of the sources."""

import hashlib
from pathlib import Path


def forget_stale(folder: Path) -> bool:
    """Delete numba's cache in ``folder`` unless it was made by these very sources; tell whether it was deleted.

    Numba compiles a kernel again when its own file changes, but keeps one whose helpers in another file changed: after
    an update that gives wrong results in silence. A folder that cannot be written holds no cache and is left alone.
    """
    digest = hashlib.sha256()
    for source in sorted(folder.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    stamp = folder / "__pycache__" / "kernels.sha256"
    try:
        if stamp.is_file() and stamp.read_text(encoding="ascii") == digest.hexdigest():
            return False
        stamp.parent.mkdir(exist_ok=True)
        for old in stamp.parent.glob("*.nb[ci]"):
            old.unlink(missing_ok=True)
        stamp.write_text(digest.hexdigest(), encoding="ascii")
    except OSError:
        return False
    return True
