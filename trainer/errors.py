"""The error that a user's own input can cause, and how a command ends on it."""

import sys
from collections.abc import Callable
from typing import Any


class UserError(ValueError):
    """A wrong file, flag or value: the message names it, says what was expected and what to do. Shown without
    traceback.
    """


def run_main(main: Callable[[], Any]) -> None:
    """Run a command's ``main``: a `UserError` becomes one line on stderr and exit status 2, Ctrl-C exits with 130."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        sys.exit(130)
