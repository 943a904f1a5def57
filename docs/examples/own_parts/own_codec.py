"""A codec of one's own: reconstruction that single large activations cannot rule."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from models.codec import Codec, prefix


class AbsoluteCodec(Codec):
    """The project's autoencoder, fitted by absolute instead of squared error of each activation."""

    def terms(self, captured: Tensor, labels: Tensor, known: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over rows of the mean absolute error over activations and prefixes, and the number of rows."""
        target, z = captured.detach().float(), self.rounded(captured)
        errors = [F.l1_loss(self.decoder(prefix(z, n)).float(), target, reduction="sum") for n in self.config.prefixes]
        return sum(errors) / (len(errors) * target.shape[1]), weight.new_tensor(float(len(weight)))
