"""A codec that keeps what predicts the labels, whatever else the activations hold."""

from __future__ import annotations

from torch import Tensor, nn

from models.codec import Codec, hidden_units, prefix
from models.config import CodecConfig
from models.fm import multitask_bce
from models.own_code import own_class


class SupervisedCodec(Codec):
    """Bottleneck trained by logistic loss (IAT, arXiv 2604.08933): each prefix of z predicts the labels of all heads.

    Encoder, rounding and packing are those of ``Codec``; the decoder gives one logit a head, and is needed in training
    alone. The loss stays behind the stop-gradient: the FM learns nothing from it.

    Args:
        config: size, prefixes and bits of a code.
        width: width K of the captured activations e.
        heads: number H of heads.
    """

    def __init__(self, config: CodecConfig, width: int, heads: int) -> None:
        super().__init__(config, width, heads)
        units = hidden_units(config)
        self.decoder = nn.Sequential(nn.Linear(config.dim, units), nn.ReLU(), nn.Linear(units, heads))

    def terms(self, captured: Tensor, labels: Tensor, known: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Logistic loss averaged over the prefixes, summed over known labels, and the sum of their weights."""
        z = self.rounded(captured)
        made = [multitask_bce(self.decoder(prefix(z, n)), labels, known, weight) for n in self.config.prefixes]
        total, weights = made[0]
        for loss, _ in made[1:]:
            total = total + loss
        return total / len(made), weights


CODECS: dict[str, type[Codec]] = {"reconstruction": Codec, "labels": SupervisedCodec}


def make_codec(config: CodecConfig, width: int, heads: int) -> Codec:
    """The codec of ``config.objective``.

    Raises:
        ModelConfigError: a team's own cannot be imported, or is no ``Codec``.
    """
    made = CODECS.get(config.objective) or own_class(config.objective, Codec, "codec.objective")
    return made(config, width, heads)
