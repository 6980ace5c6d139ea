"""A training on several ranks: what makes it equal to one on one, and how ranks wait for each other."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

from pas_train.synchronised_norm import synchronise_batch_norms


def prepare_ranks(trainer: Trainer, module: LightningModule, sync_batchnorm: bool) -> None:
    """Called in `setup("fit")`, before the strategy wraps the module.

    Raises: ValueError naming the setting of the trainer that does the same in another way.
    """
    if getattr(trainer.strategy, "_layer_sync", None) is not None:
        raise ValueError(
            "trainer.sync_batchnorm is true: torch's conversion works on CUDA only, and drops the activation inside "
            "some of timm's norms. Leave it at false: model.sync_batchnorm does it on every device, and is on by "
            "default"
        )
    if trainer.world_size == 1:
        return
    if sync_batchnorm:
        synchronise_batch_norms(module, trainer.strategy.root_device)
    if isinstance(trainer.strategy, DDPStrategy):
        # Lightning hands these to DistributedDataParallel; what the yaml says of them comes first.
        settings = trainer.strategy._ddp_kwargs
        settings.setdefault("gradient_as_bucket_view", True)  # no second copy of all gradients
        # Statistics of synchronised norms and NNCLR's support set come from what all ranks have gathered, so they are
        # equal; to send them (100 MB for the support set) before each step would only cost.
        settings.setdefault("broadcast_buffers", not sync_batchnorm)
