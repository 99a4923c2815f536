"""``python -m eval COMMAND``: each command is a module of this folder with a ``main(argv)``."""

import argparse
import importlib
import sys

from timm_gcp.error_handler import DEBUG, exit_status
from timm_gcp.output import lenient_output

COMMANDS = {
    "accuracy": "a list of models or folders on one data set, into one CSV",
    "conditioning": "κ, rank and eigenvalues under eps of training runs against the learning rate",
    "gradients": "what each method does to output and gradient as conditioning worsens",
    "imagenet": "the published ImageNet checkpoints on your ImageNet, beside what their authors printed",
    "speed": "time and memory of every method beside floors and the published layers",
    "report": "one page of tables, pictures and verdicts from all results",
    "memory": "what a training step takes in memory, and what makes it smaller",
    "experiment": "every pooling head trained from scratch on the grocery photographs, in stages",
}


def main() -> int:
    with lenient_output():
        return _main()


def _main() -> int:
    listing = "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m eval", epilog=f"commands:\n{listing}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    args = parser.parse_args(sys.argv[1:2])
    argv = sys.argv[2:]
    rest = [argument for argument in argv if argument != DEBUG]
    return exit_status("eval", argv, lambda: importlib.import_module(f"eval.{args.command}").main(rest))


if __name__ == "__main__":
    sys.exit(main())
