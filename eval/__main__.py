"""``python -m eval COMMAND``: each command is a module of this folder with a function ``main(argv)``."""

import sys

from timm_gcp.commands.module_commands import run_module_command

COMMANDS = {
    "accuracy": "evaluate several models or model folders on one data set, into one CSV file",
    "conditioning": "plot the conditioning of training runs against the learning rate",
    "gradients": "measure the errors of every method's output and gradient as the conditioning worsens",
    "imagenet": "evaluate the published ImageNet checkpoints and compare with the authors' accuracies",
    "speed": "time every method, and measure its memory, beside lower bounds and the published layers",
    "probe": "measure what each setting of a probe on frozen features is worth",
    "probe_images": "measure a probe with 5, 10 and 20 training images per class",
    "embedding": "measure the vectors of an embedding: labels of neighbours, cosines of copies",
    "report": "write one page of tables, plots and comparisons from all results",
    "memory": "measure the memory of a training step with and without recomputation",
    "finetune": "fine-tune a pretrained backbone with every pooling head on Cars and Grocery, in stages",
    "refit": "fit classifiers anew to the features of the fine-tuned networks, with and without covariance",
    "experiment": "train every pooling head from scratch on the Grocery Store photographs, in stages",
}


def main() -> int:
    """Runs the command that ``sys.argv`` names; returns the exit status."""
    return run_module_command("eval", COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
