"""What an item encoder is: fitted once on the past, the same for every later item.

To add one, write a class with these methods and put it into models/items/kinds.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Document:
    """An item's text, and its categories as whole tokens such as `genres=Drama`."""

    text: str | None
    categories: Sequence[str] | None


class ItemEncoder(Protocol):
    """A fitted encoder. Vectors of one fit share a space."""

    @classmethod
    def fit(cls, documents: Sequence[Document], dim: int) -> Self:
        """Fit on these items; the same items in the same order give the same encoder.

        Raises:
            InputError: there is too little to fit `dim` dimensions on.
        """
        ...

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        ...

    def encode(self, documents: Sequence[Document]) -> NDArray[np.float32]:
        """Return float32 [items, dim]; zeros for an item that it can say nothing about.

        An item's vector does not depend on the others in the call.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return what the manifest keeps of the fit, as JSON values."""
        ...

    def to_bytes(self) -> bytes:
        """Return the encoder as an archive without pickle; equal bytes for equal encoders."""
        ...

    @classmethod
    def from_bytes(cls, archive: bytes) -> Self:
        """Read what `to_bytes` wrote."""
        ...
