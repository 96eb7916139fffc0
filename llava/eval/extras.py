"""Optional libraries, imported when they are needed."""

import importlib
from types import ModuleType

from llava.errors import UserError


def import_extra(name: str, purpose: str) -> ModuleType:
    """A module that only some evaluations need. Raises UserError saying how to install it.

    ``purpose`` begins the message: "MMBench's tables are" handled by pandas.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{purpose} handled by {name.split('.')[0]}, which cannot be imported ({error}); "
            'install it with: pip install -e ".[eval]"'
        ) from error
