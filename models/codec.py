"""Compression of captured activations: an autoencoder behind a stop-gradient, and the packing of its codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import CodecConfig

Codes = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]

LEAST_HIDDEN_UNITS = 64

# Steps per unit of a packed value: z_q = round(step * z).clamp(-step, step - 1) / step.
_STEPS = {4: 8, 8: 128}


class Codec(nn.Module):
    """Matryoshka autoencoder (method section 1.2): z = tanh(enc(sg(e))), decoded from each prefix of z.

    Args:
        config: size, prefixes and bits of a code.
        width: width K of the captured activations e.
        heads: number H of heads, for a loss that reads labels.
    """

    def __init__(self, config: CodecConfig, width: int, heads: int) -> None:
        super().__init__()
        self.config, self.heads = config, heads
        units = hidden_units(config)
        self.encoder = nn.Sequential(nn.Linear(width, units), nn.ReLU(), nn.Linear(units, config.dim))
        self.decoder = nn.Sequential(nn.Linear(config.dim, units), nn.ReLU(), nn.Linear(units, width))

    def forward(self, captured: Tensor) -> Tensor:
        """Captured activations [N, K] -> z [N, dim] in [-1, 1]; no gradient reaches the activations."""
        return torch.tanh(self.encoder(captured.detach()))

    def loss(self, captured: Tensor) -> Tensor:
        """Summed over rows: squared error per activation, averaged over the prefixes. [N, K] -> scalar.

        The decoder sees rounded values, with the gradient of the exact ones, so that z spreads over the steps.
        """
        target = captured.detach().float()
        z = self.rounded(captured)
        errors = [
            F.mse_loss(self.decoder(prefix(z, size)).float(), target, reduction="sum") for size in self.config.prefixes
        ]
        return torch.stack(errors).sum() / (len(errors) * target.shape[1])

    def rounded(self, captured: Tensor) -> Tensor:
        """z [N, dim] as it is stored, with the gradient of the exact one."""
        z = self(captured).float()
        if self.config.bits not in _STEPS:
            return z
        step = _STEPS[self.config.bits]
        return z + (torch.round(z * step).clamp(-step, step - 1) / step - z).detach()

    def terms(self, captured: Tensor, labels: Tensor, known: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What a training step minimises, as (sum over the batch, what to divide it by).

        captured [N, K]; labels and known [N, H]; weight [N]. Reconstruction uses the activations alone.
        """
        del labels, known
        return self.loss(captured), torch.tensor(float(len(weight)), device=weight.device)


def hidden_units(config: CodecConfig) -> int:
    """Width of the hidden layers: no bottleneck before the code itself."""
    return max(LEAST_HIDDEN_UNITS, 2 * config.dim)


def prefix(z: Tensor, size: int) -> Tensor:
    """z [N, dim] with all but its first ``size`` values zero."""
    return F.pad(z[:, :size], (0, z.shape[1] - size))


def pack(z: Vectors, bits: int) -> Codes:
    """Vectors [.., dim] in [-1, 1] -> bytes [.., dim * bits / 8].

    4 bits: two values a byte, the first in the low half; 8 bits: one byte a value; both two's complement, so that a
    zero byte is zero. 32 bits: little-endian float32.
    """
    if bits == 32:
        return np.ascontiguousarray(z, dtype="<f4").view(np.uint8)
    step = _STEPS[bits]
    levels: Codes = np.rint(np.asarray(z, np.float32) * step).clip(-step, step - 1).astype(np.int8).view(np.uint8)
    return levels if bits == 8 else (levels[..., 0::2] & np.uint8(15)) | (levels[..., 1::2] << np.uint8(4))


def unpack(codes: Codes, bits: int) -> Vectors:
    """The inverse of ``pack`` up to rounding: bytes [.., B] -> float32 [.., B * 8 / bits]."""
    if bits == 32:
        return np.ascontiguousarray(codes).view("<f4")
    return _values_of_bytes(bits)[codes].reshape(*codes.shape[:-1], codes.shape[-1] * 8 // bits)


def pack_tensor(z: Tensor, bits: int) -> Tensor:
    """``pack`` for tensors, on their device: [.., dim] -> uint8 [.., dim * bits / 8]."""
    if bits == 32:
        return z.float().reshape(-1).view(torch.uint8).view(*z.shape[:-1], z.shape[-1] * 4)
    step = _STEPS[bits]
    levels = torch.round(z.float() * step).clamp(-step, step - 1).to(torch.int8).view(torch.uint8)
    return levels if bits == 8 else (levels[..., 0::2] & 15) | (levels[..., 1::2] << 4)


def unpack_tensor(codes: Tensor, bits: int) -> Tensor:
    """``unpack`` for tensors, on their device: uint8 [.., B] -> float32 [.., B * 8 / bits]."""
    if bits == 32:
        return codes.reshape(-1).view(torch.float32).view(*codes.shape[:-1], codes.shape[-1] // 4)
    levels = codes.view(torch.int8)
    if bits == 4:
        # Arithmetic shifts extend the sign; on a CPU this is three times as fast as a table of the 256 bytes.
        levels = torch.stack([(levels << 4) >> 4, levels >> 4], dim=-1).flatten(-2)
    return levels.float() / _STEPS[bits]


def _values_of_bytes(bits: int) -> npt.NDArray[Any]:
    """The value or the two values of each byte: float32 [256, 8 / bits]."""
    byte = np.arange(256, dtype=np.uint8)
    if bits == 8:
        return (byte.view(np.int8).astype(np.float32) / _STEPS[8])[:, None]
    nibbles = np.stack([byte & 15, byte >> 4], axis=1).astype(np.int8)
    return ((nibbles ^ 8) - 8).astype(np.float32) / _STEPS[4]
