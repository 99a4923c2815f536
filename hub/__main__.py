"""``python -m hub COMMAND``: each command is a module of this folder whose ``main(argv)`` returns the exit status."""

import sys

from timm_gcp.commands.module_commands import run_module_command

COMMANDS = {
    "publish": "commit a checkpoint of the manifest to the Hub, download and check it, and pin it in the manifest",
    "verify": "download every pinned revision again and check it",
    "package": "add a small trained model to the package, with its measured accuracy",
    "cards": "write the model cards of all rows, and an index",
}


def main() -> int:
    """Runs the command that ``sys.argv`` names; returns the exit status."""
    return run_module_command("hub", COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
