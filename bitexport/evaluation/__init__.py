"""How many images of a data set a model classifies right."""

from bitexport.evaluation.accuracy import Accuracy, evaluate, wilson_interval
from bitexport.evaluation.datasets import DATASETS, DataOptions, LabelledImages, open_images

__all__ = [
    "DATASETS",
    "Accuracy",
    "DataOptions",
    "LabelledImages",
    "evaluate",
    "open_images",
    "wilson_interval",
]
