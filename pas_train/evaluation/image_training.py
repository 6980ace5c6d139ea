"""A classifier on a backbone, trained on the images of a labelled set on all ranks."""

from typing import Any

import numpy as np
from lightning.pytorch import Trainer

from datamodules.classification import LabelledCrops, centre_loader, crop_loader
from pas_train.evaluation.image_classifier import ImageClassifier, Recipe
from pas_train.evaluation.module_training import Training, fit_module, gathered, new_trainer, quietly, shared_batch
from pas_train.evaluation.protocol import Subject


def rank_images(subject: Subject, recipe: Recipe, training: Training) -> np.ndarray:
    """Trains a classifier and returns the best classes of the test images, int64 [T, <= 5], on all ranks."""
    trainer, module = train_classifier(subject, recipe, training)
    test = centre_loader(subject.labelled[1], subject.image_size, subject.batch_size, trainer, subject.num_workers)
    with quietly():
        predicted: Any = trainer.predict(module, test)
    return _in_order(predicted, len(subject.test))


def train_classifier(subject: Subject, recipe: Recipe, training: Training) -> tuple[Trainer, ImageClassifier]:
    """Trains a classifier, on all ranks. Raises ValueError naming the settings."""
    trainer = new_trainer(training)
    batch_size = shared_batch(
        recipe.key, recipe.batch_size, len(subject.train), trainer.world_size, subject.name,
        pairs=bool(recipe.mixup or recipe.cutmix),
    )  # fmt: skip
    module = ImageClassifier(subject, recipe)
    crops = LabelledCrops(subject.labelled[0], subject.image_size, recipe.crop_min, recipe.seed)
    loader = crop_loader(crops, batch_size, recipe.seed, trainer, subject.num_workers)
    about = (
        f"{training.length} of {len(subject.train):,} images, {subject.classes} classes, {recipe.optimizer} "
        f"{recipe.lr:g}, batches of {batch_size}"
    )
    fit_module(trainer, module, loader, training, about)
    return trainer, module


def _in_order(predicted: list[tuple[np.ndarray, np.ndarray]], images: int) -> np.ndarray:
    """The classes of all ranks' images in their order."""
    pairs = (pair for part in gathered(predicted) for pair in part)
    rows, ranked = (np.concatenate(column) for column in zip(*pairs, strict=True))
    classes = np.empty((images, ranked.shape[1]), np.int64)
    classes[rows] = ranked  # an image that two ranks had is the same in both
    return classes
