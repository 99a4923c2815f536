"""Makes a function whose keywords are the options of a command."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

from ..commands.keywords import keyword_actions
from ..commands.parser import Parser
from ..errors import GCPError

__all__ = ["keywords_for_flags", "takes_options_of"]

Function = TypeVar("Function", bound=Callable[..., Any])


def takes_options_of(parser: Parser) -> Callable[[Function], Function]:
    """A decorator of a function that takes the options of a command as ``**options``.

    The function gets a signature with every option and its default, for completion in an editor or a notebook, and the
    list of them at the end of its docstring. Its errors name keywords in place of flags.

    Args:
        parser: of the command.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> Any:
            try:
                return function(*args, **keywords)
            except GCPError as error:
                error.args = (keywords_for_flags(str(error), parser),)
                raise

        call.__signature__ = _signature(function, parser)  # type: ignore[attr-defined]
        call.__doc__ = f"{inspect.getdoc(function)}\n\nOptions:\n{_list_of_options(function, parser)}"
        return call  # type: ignore[return-value]

    return decorate


def keywords_for_flags(message: str, parser: Parser) -> str:
    """A message of the command line with keywords in place of the flags of a parser.

    ``--img-size`` becomes `` `img_size` ``. A ``--no-NAME`` that goes with ``--NAME`` becomes `` `NAME=False` ``.
    """
    named = {}
    for keyword, action in keyword_actions(parser).items():
        first = f"--{keyword.replace('_', '-')}"
        own = [option for option in action.option_strings if option == first or not option.startswith("--")]
        named.update(dict.fromkeys(own, f"`{keyword}`"))
        if f"--no-{keyword.replace('_', '-')}" in action.option_strings:
            named[f"--no-{keyword.replace('_', '-')}"] = f"`{keyword}=False`"
    return re.sub(r"(?<![\w-])--?[A-Za-z][\w-]*", lambda found: named.get(found[0], found[0]), message)


def _own_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    given = inspect.signature(function).parameters.values()
    return [each for each in given if each.kind is not inspect.Parameter.VAR_KEYWORD]


def _options(function: Callable[..., Any], parser: Parser) -> dict[str, Any]:
    """The options that the function does not name itself, each by its first keyword."""
    own = {parameter.name for parameter in _own_parameters(function)}
    found: dict[str, Any] = {}
    for keyword, action in keyword_actions(parser).items():
        if keyword not in own and action not in found.values():
            found[keyword] = action
    return found


def _signature(function: Callable[..., Any], parser: Parser) -> inspect.Signature:
    options = [
        inspect.Parameter(keyword, inspect.Parameter.KEYWORD_ONLY, default=action.default)
        for keyword, action in _options(function, parser).items()
    ]
    whole = inspect.signature(function)
    return whole.replace(parameters=[*_own_parameters(function), *options])


def _list_of_options(function: Callable[..., Any], parser: Parser) -> str:
    """The options as the help of the command has them, with keywords."""
    expand = parser._get_formatter()._expand_help
    lines = (f"    {keyword}: {expand(action)}" for keyword, action in _options(function, parser).items())
    return keywords_for_flags("\n".join(lines), parser)
