"""YAML files of arguments."""

from typing import Any

import yaml

from ..errors import GCPError
from ..text import one_line
from ..text_files import read_text

__all__ = ["read_mapping"]


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
    try:
        content = yaml.load(read_text(path, what), _UniqueKeys) or {}  # a SafeLoader
    except yaml.constructor.ConstructorError as error:
        raise GCPError(f"{what} cannot be read: {error.problem or one_line(error)}.") from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise GCPError(f"{what} is not YAML: {one_line(error)}.") from error
    if not isinstance(content, dict):
        raise GCPError(f"{what} holds no 'argument: value' lines.")
    return content
