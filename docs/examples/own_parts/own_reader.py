"""A reader of one's own: the mean of the tokens whose example was clicked."""

from __future__ import annotations

from torch import Tensor

from models.token_readers import EncodedTokens, TokenReader
from models.vm_data import TokenBatch


class ClickedReader(TokenReader):
    """Tokens with a known label 1 on any head count alike, all others nothing; without one the read is 0."""

    def forward(self, encoded: EncodedTokens, tokens: TokenBatch, query: Tensor) -> Tensor:
        """Weights [R, 1, L] of the tokens; masked places are 0."""
        clicked = (tokens.labels * tokens.known).amax(dim=-1) * tokens.mask
        return (clicked / clicked.sum(dim=1, keepdim=True).clamp(min=1))[:, None]
