"""``python -m hub COMMAND``: each command is a module of this folder whose ``main(argv)`` returns the exit status."""

import argparse
import importlib
import sys

from timm_gcp.error_handler import DEBUG, exit_status
from timm_gcp.output import lenient_output

COMMANDS = {
    "publish": "commit a checkpoint of the manifest to the Hub, download and check it, and pin it in the manifest",
    "verify": "download every pinned revision again and check it",
    "package": "add a small trained model to the package, with its measured accuracy",
    "cards": "write the model cards of all rows, and an index",
}


def main() -> int:
    """Runs the command that ``sys.argv`` names; returns its exit status."""
    with lenient_output():
        return _main()


def _main() -> int:
    listing = "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m hub", epilog=f"commands:\n{listing}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    args = parser.parse_args(sys.argv[1:2])
    argv = sys.argv[2:]
    rest = [argument for argument in argv if argument != DEBUG]
    return exit_status("hub", argv, lambda: importlib.import_module(f"hub.{args.command}").main(rest))


if __name__ == "__main__":
    sys.exit(main())
