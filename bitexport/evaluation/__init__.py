"""How many images of a data set a model classifies right."""

from bitexport.evaluation.accuracy import Accuracy, evaluate, usual_batch, wilson_interval
from bitexport.evaluation.datasets import DATASETS, DataOptions, LabelledImages, open_images

__all__ = [
    "DATASETS",
    "Accuracy",
    "DataOptions",
    "LabelledImages",
    "evaluate",
    "open_images",
    "usual_batch",
    "wilson_interval",
]
