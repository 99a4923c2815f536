"""``python -m PACKAGE COMMAND`` for a package whose modules are commands, such as ``eval`` and ``hub``."""

import argparse
import importlib
import sys
from collections.abc import Mapping

from timm_gcp.error_handler import DEBUG, exit_status
from timm_gcp.output import lenient_output

__all__ = ["run_module_command"]


def run_module_command(package: str, commands: Mapping[str, str]) -> int:
    """Runs the command that ``sys.argv`` names: ``main(argv)`` of the module with its name.

    Args:
        package: name of the package.
        commands: name of a module → what its command does, for the help.

    Returns:
        Exit status, as of `timm_gcp.__main__.main`.
    """
    with lenient_output():
        width = max(map(len, commands))
        listing = "\n".join(f"  {name:{width}}  {text}" for name, text in commands.items())
        parser = argparse.ArgumentParser(
            prog=f"python -m {package}",
            epilog=f"commands:\n{listing}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("command", choices=commands, metavar="COMMAND")
        command = parser.parse_args(sys.argv[1:2]).command
        argv = sys.argv[2:]
        rest = [argument for argument in argv if argument != DEBUG]
        return exit_status(package, argv, lambda: importlib.import_module(f"{package}.{command}").main(rest))
