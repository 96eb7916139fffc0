"""How this project tells a user about a mistake: one line, exit code 2, no traceback."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class UserError(ValueError):
    """A mistake in what the user gave us. The message is one line: value, rule, what to do next."""


def one_line(error: UserError) -> str:
    """The user's line; a worker process of a DataLoader hands it over behind its whole traceback."""
    return str(error).rsplit("UserError: ", 1)[-1].strip()


def exit_on_user_error(main: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command's ``main``: a :class:`UserError` becomes ``error: ...`` on stderr and exit code 2."""

    @functools.wraps(main)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            sys.exit(2)

    return wrapper
