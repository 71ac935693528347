"""Networks, one file a model, its layer table first."""

from tinyconv.models.lenet import LeNet5
from tinyconv.models.unet import UNet

__all__ = ["LeNet5", "UNet"]
