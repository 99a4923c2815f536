"""The layout of ``--help``: every option with its default, texts with line breaks as they are."""

import argparse
import re
from typing import Any

__all__ = ["HelpFormatter", "shown_default"]

_IN_WORDS = re.compile(r" \(default: [^()]*\)$")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Adds '(default: …)' to every option, from the parser's own default.

    A text may end in '(default: …)' in words, for what is chosen where the option is not given and the parser holds
    None or an empty value. A default that the parser does hold, its own or a recipe's, is shown in the place of it.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        nothing = action.default is None or action.default in ("", [], {})
        if (
            action.required
            or "%(default)" in text
            or action.default is argparse.SUPPRESS
            or (nothing and (not action.option_strings or _IN_WORDS.search(text)))
        ):
            return text
        return f"{_IN_WORDS.sub('', text)} (default: {shown_default(action.default)})".replace("%", "%%")


def shown_default(value: Any) -> str:
    """A default as the help shows it: as it is typed; on, off and none for what has no text."""
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{name}={shown_default(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(shown_default(each) for each in value)
    return str(value)
