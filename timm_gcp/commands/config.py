"""YAML files of arguments."""

import argparse
from typing import Any

import yaml
from timm.utils import ParseKwargs

from ..errors import GCPError
from ..text import nearest, one_line, shortened
from ..text_files import read_text

__all__ = ["checked_value", "read_mapping", "read_options"]

_COMMAND_LINE_ONLY = ("help", "config", "recipe", "show_recipe")


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses two lines with one key, of which YAML's own takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, str):
                key = key.replace("-", "_")  # two spellings of one option
            if not isinstance(key, (str, int, float)):
                continue
            if key in seen:
                twice = f"'{key}' stands there twice, in lines {seen[key]} and {line}"
                raise yaml.constructor.ConstructorError(None, None, twice, key_node.start_mark)
            seen[key] = line
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_mapping(path: str, what: str) -> dict[Any, Any]:
    """The 'name: value' lines of a YAML file.

    Args:
        path: the file.
        what: the file as a message calls it, such as '--config run.yaml'.

    Raises:
        GCPError: the file cannot be read, is not YAML, holds one name twice, or no such lines.
    """
    text = read_text(path, what)  # a GCPError is a ValueError too, so it is read before the block
    try:
        content = yaml.load(text, _UniqueKeys) or {}  # a SafeLoader
    except yaml.constructor.ConstructorError as error:
        raise GCPError(f"{what} cannot be read: {error.problem or one_line(error)}.") from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise GCPError(f"{what} is not YAML: {one_line(error)}.") from error
    if not isinstance(content, dict):
        raise GCPError(f"{what} holds no 'argument: value' lines.")
    return content


def read_options(path: str, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Options from a YAML file, checked against the parser as the command line would be.

    Args:
        path: the file.
        parser: whose options they are.

    Returns:
        Values by the names that the parser stores them under.

    Raises:
        GCPError: as `read_mapping`; an unknown option, or a value that it does not take.
    """
    config = read_mapping(path, f"--config {path}")
    actions = {action.dest: action for action in parser._actions if action.dest not in _COMMAND_LINE_ONLY}
    checked = {}
    for key, value in config.items():
        name = str(key).replace("-", "_")
        if name not in actions:
            raise GCPError(f"--config {path} has an unknown argument '{key}'{nearest(name, actions)}")
        checked[name] = checked_value(actions[name], value, f"'{key}' in --config {path}")
    return checked


def checked_value(action: argparse.Action, value: Any, where: str) -> Any:
    """A value that is given as such, not as text, converted by the rules of the command line.

    Args:
        action: of the option.
        value: what is given.
        where: the option as a message calls it, such as "'lr' in --config run.yaml".

    Raises:
        GCPError: the option does not take it.
    """
    if value is None and action.default is not None:
        raise GCPError(f"{where} needs a value; leave the line out for the default, {action.default!r}.")
    if value is None or isinstance(action, ParseKwargs):
        if value is not None and not isinstance(value, dict):
            raise GCPError(f"{where} takes 'name: value' lines, not {shortened(value)}.")
        return value
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise GCPError(f"{where} takes true or false, not {shortened(value)}.")
        return value
    if action.nargs == "?" and value is True and action.const is not None:
        return action.const
    return _converted(action, value, where)


def _converted(action: argparse.Action, value: Any, where: str) -> Any:
    """A value or several, of the type and among the choices of the option."""
    several = action.nargs == "+" or isinstance(action.nargs, int)
    items = value if several and isinstance(value, list) else [value]
    # What has a length is no single value: lists, tensors, loaders.
    if any(isinstance(item, bool) or (hasattr(item, "__len__") and not isinstance(item, str)) for item in items):
        wanted = "numbers or texts" if several else "one number or text"
        raise GCPError(f"{where} cannot be {shortened(value)}; give {wanted}.")
    if isinstance(action.nargs, int) and len(items) != action.nargs:
        raise GCPError(f"{where} takes {action.nargs} values, not {len(items)}.")
    kind: Any = action.type or str
    try:
        items = [kind(str(item)) for item in items]
    except argparse.ArgumentTypeError as error:
        raise GCPError(f"{where}: {error}.") from error
    except ValueError as error:
        raise GCPError(f"{where} cannot be {shortened(value)}: it takes {kind.__name__} values.") from error
    if action.choices is not None and (bad := [item for item in items if item not in action.choices]):
        raise GCPError(f"{where} cannot be {shortened(bad[0])}; it is one of {', '.join(map(repr, action.choices))}.")
    return items if several else items[0]
