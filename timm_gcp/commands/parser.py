"""The parser of every command, and the actions of its options."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from timm.utils import ParseKwargs

from ..errors import GCPError
from .help_formatter import HelpFormatter
from .unknown_options import unknown_arguments

__all__ = ["Pairs", "Parser", "Switch"]


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one sentence, without the usage, and whose help names every default."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter, **kwargs})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, with the near names of an option that is not there."""
        parsed, extra = self.parse_known_args(args, namespace)
        if extra:
            self.error(unknown_arguments(extra, self._option_string_actions, self.prog))
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print with a page of usage.

        Raises:
            GCPError: the message, and how to see the help.
        """
        raise GCPError(f"{message} (see {self.prog} --help)")


class Switch(argparse.BooleanOptionalAction):
    """``--name``, off by default, with a ``--no-name`` for what a recipe or ``--config`` turns on."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str, default: bool | None = False) -> None:
        super().__init__(option_strings, dest, default=default, help=help)
        self.help = help  # argparse adds the default before Python 3.13; the formatter does so everywhere


class Pairs(ParseKwargs):
    """timm's ``K=V …``; what is no pair is refused."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Checks each pair by itself, to name the one at fault."""
        for value in values:
            try:
                super().__call__(parser, argparse.Namespace(), [value], option_string)
            except (ValueError, SyntaxError):
                parser.error(f"argument {option_string}: {value!r} is not of the form K=V")
        super().__call__(parser, namespace, values, option_string)
