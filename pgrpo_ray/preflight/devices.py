"""GPUs of this machine, for a run that starts Ray on it; those of a cluster are Ray's to find."""

from pgrpo_ray.config import RunConfig
from pgrpo_ray.errors import EnvironmentFault


def check_devices(config: RunConfig) -> None:
    """Raise `EnvironmentFault` when a local run wants more GPUs than there are."""
    if not config.gpus or config.cluster.address != "local":
        return
    import torch

    if config.gpus > torch.cuda.device_count():
        raise EnvironmentFault(
            f"the run wants {config.gpus:g} GPUs, torch sees {torch.cuda.device_count()}. Lower gpus_per_worker, "
            "gpus_per_rank or reward_model.gpus, or `make setup ACCELERATOR=cuda` on a machine that has them."
        )
