"""Recipes: published training settings by name, as YAML files of the arguments of ``timm-gcp train``."""

from pathlib import Path

from ...errors import GCPError
from ...text import nearest

__all__ = ["find_recipe", "recipe_names"]

_FOLDER = Path(__file__).parent

# Data sets by the names under which recipes have them, where --dataset has another.
_PUBLISHED_NAMES = {"cub": "birds"}


def recipe_names() -> list[str]:
    """The recipes in the package."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def find_recipe(name: str, dataset: str = "") -> Path:
    """The file of a recipe.

    Args:
        name: of a recipe (``fgvc-seb-birds``), or of several that differ by data set (``fgvc-seb``).
        dataset: ``--dataset``, which chooses among several.

    Raises:
        GCPError: there is none of that name, or several; they are named.
    """
    names = recipe_names()
    chosen = f"{name}-{_PUBLISHED_NAMES.get(dataset, dataset)}"
    if name not in names and chosen in names:
        name = chosen
    if name in names:
        return _FOLDER / f"{name}.yaml"
    several = [other for other in names if other.startswith(f"{name}-")]
    if several:
        raise GCPError(f"--recipe {name} stands for several recipes; give one of {', '.join(several)}.")
    raise GCPError(f"Unknown recipe '{name}'; there are {', '.join(names)}{nearest(name, names)}")
