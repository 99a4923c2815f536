"""``timm_gcp.predict``: ``timm-gcp predict`` from Python."""

import logging
from typing import Any

from ..commands.predict import predict as predict_and_write
from ..commands.predict import predict_parser, read_predict_keywords
from ..prediction.result import PredictionList
from ..prediction.sources import Images
from .function import takes_options_of
from .named_model import Model, split_model

__all__ = ["predict"]

_logger = logging.getLogger(__name__)


@takes_options_of(predict_parser())
def predict(images: Images, model: Model | None = None, **options: Any) -> PredictionList:
    """The most probable classes of images, as ``timm-gcp predict`` finds them.

    Args:
        images: a file, a folder, a PIL image, or several of these.
        model: as for ``timm_gcp.evaluate``; None takes the model in the package.
        **options: the long options of the command with underscores, such as ``top=3`` and ``explain="page"``. None
            counts as not given.

    Returns:
        A list with an entry for each image: ``image, label, probability = entry``, and ``entry.classes`` has the
        ``top`` classes with their probabilities. Images that cannot be read are left out, with a warning.

    Raises:
        GCPError: as the command: a model that cannot be had, or not a single image that can be read.

    Example::

        for image, label, probability in timm_gcp.predict("photos", model="runs/a"):
            print(image, label, probability)
    """
    network, named = split_model(model, options)
    args = read_predict_keywords(named, "timm_gcp.predict")
    found = predict_and_write(args, images, network)
    for failure in found.unreadable:
        _logger.warning("%s", failure)
    return found
