"""The options of a command as keywords of a function, checked by the parser of the command.

The keyword of ``--img-size`` is ``img_size``. Values are Python's: numbers, lists, True and False, and a dictionary
where the command takes ``K=V``.
"""

import argparse
import os
import shlex
from collections.abc import Mapping
from typing import Any

from timm.utils import ParseKwargs

from ..errors import GCPError
from .config import checked_value
from .parser import Parser
from .unknown_options import advice_on

__all__ = ["command_line", "keyword_actions", "namespace_of", "read_keywords"]

_NO_KEYWORDS = ("help", "debug", "show_recipe")


def keyword_actions(parser: Parser) -> dict[str, argparse.Action]:
    """The options of a parser by keyword; an option with two long names has two keywords."""
    found = {}
    for action in parser._actions:
        if action.dest in _NO_KEYWORDS:
            continue
        names = [option for option in action.option_strings if option.startswith("--")]
        if isinstance(action, argparse.BooleanOptionalAction):
            names = names[:1]  # not --no-NAME
        found.update({name.removeprefix("--").replace("-", "_"): action for name in names})
    return found


def read_keywords(keywords: Mapping[str, Any], parser: Parser, function: str) -> dict[str, Any]:
    """Checks keywords as the command line would be checked.

    Args:
        keywords: options by keyword; None counts as not given.
        parser: of the command.
        function: its name in the message.

    Returns:
        Values by the names that the parser stores them under.

    Raises:
        GCPError: an option that there is not, or a value that it does not take.
    """
    actions, given = keyword_actions(parser), {}
    for name, value in keywords.items():
        if name not in actions:
            advice = advice_on(name.replace("_", "-").lower(), parser._option_string_actions, parser.prog)
            hint = advice[0] if advice else f"help({function}) lists them."
            raise GCPError(f"{function} has no option '{name}'; {hint}")
        if value is not None:
            plain = os.fspath(value) if isinstance(value, os.PathLike) else value
            plain = list(plain) if isinstance(plain, tuple) else plain
            given[actions[name].dest] = checked_value(actions[name], plain, f"`{name}`")
    return given


def namespace_of(parser: Parser, given: Mapping[str, Any]) -> argparse.Namespace:
    """What the parser would return: its defaults, and the values that are given."""
    defaults = {action.dest: parser.get_default(action.dest) for action in parser._actions if action.dest != "help"}
    return argparse.Namespace(**{**defaults, **given})


def command_line(parser: Parser, given: Mapping[str, Any]) -> str:
    """The command line that has the same values, for the records of a run.

    Args:
        parser: of the command.
        given: as `read_keywords` returns it.
    """
    words = parser.prog.split()
    for action in parser._actions:
        if action.dest in given and action.option_strings:
            words += _words(action, given[action.dest])
    return shlex.join(words)


def _words(action: argparse.Action, value: Any) -> list[str]:
    option = next(name for name in action.option_strings if name.startswith("--"))
    if isinstance(action, argparse.BooleanOptionalAction):
        return [option if value else action.option_strings[-1]]
    if action.nargs == 0:
        return [option] if value else []
    if isinstance(action, ParseKwargs):
        return [option, *(f"{key}={each!r}" for key, each in value.items())]
    values = [str(each) for each in (value if isinstance(value, list) else [value])]
    return [f"{option}={values[0]}"] if len(values) == 1 and values[0].startswith("-") else [option, *values]
