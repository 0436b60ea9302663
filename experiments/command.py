"""How commands end: in one line where something is wrong, and never with a traceback for Ctrl-C."""

import functools
import os
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def quiet(main: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A command that ends without a traceback when it is interrupted, or when its reader is gone.

    With the codes that shells know: 130 after SIGINT, 1 where nobody reads on (`| head`).
    """

    @functools.wraps(main)
    def called(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
        try:
            return main(*arguments, **keywords)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None

    return called


def fail(message: str) -> NoReturn:
    """Say what is wrong in one line and exit with code 2, the code of a usage error."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)
