"""What an item encoder is: fitted once on the past, the same for every later item.

To add one, write a class with these methods and a line for it in models/items/spec.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.items.spec import ItemEncoder

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Document:
    """An item's text, and its categories as whole tokens such as `genres=Drama`."""

    text: str | None
    categories: Sequence[str] | None


@dataclass(frozen=True, eq=False)
class Behaviour:
    """What members did until a moment: member by member, oldest first.

    Of a member's actions at one timestamp the order says nothing.

    Attributes:
        members: A number per member, ascending, int64 [actions].
        items: Indices into `item_ids`, int32 [actions].
        item_ids: The items that were acted on, each once [items acted on].
        timestamps: Microseconds since 1970, int64 [actions].
        signs: 1 liked, -1 disliked, 0 neither; int8 [actions].
        codes: Which action: 1 for the first of `actions`, int16 [actions].
        actions: The configured actions, in order.
        numbers: The number that each action carries, if a line reads one (`reads_number`), float64
            [actions], NaN where it is missing.
    """

    members: NDArray[np.int64]
    items: NDArray[np.int32]
    item_ids: pa.Array
    timestamps: NDArray[np.int64]
    signs: NDArray[np.int8]
    codes: NDArray[np.int16]
    actions: tuple[str, ...]
    numbers: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def before(self, moment: int) -> "Behaviour":
        """Return what happened before a moment (microseconds since 1970); item_ids stay."""
        return self.take(self.timestamps < moment)

    def take(self, chosen: NDArray[np.bool_]) -> "Behaviour":
        """Return the actions that a mask chooses; item_ids stay."""
        return Behaviour(
            self.members[chosen],
            self.items[chosen],
            self.item_ids,
            self.timestamps[chosen],
            self.signs[chosen],
            self.codes[chosen],
            self.actions,
            None if self.numbers is None else self.numbers[chosen],
        )


@dataclass(frozen=True, eq=False)
class Corpus:
    """Items, and what was known of them at a moment.

    Attributes:
        documents: Of each item [items].
        ids: Of each item [items]; None where only the texts are known, as of a search.
        available_at: Since when each is known, microseconds since 1970, int64 [items]; None as ids.
        behaviour: What members did; it may name other items too. None for an encoder that does not
            read activity, and where only texts are known.
        candidates: Which items the encoder's own line may predict, bool [items]; None for all.
    """

    documents: Sequence[Document]
    ids: pa.Array | None = None
    available_at: NDArray[np.int64] | None = None
    behaviour: Behaviour | None = None
    candidates: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.documents)


class FittedEncoder(Protocol):
    """A fitted encoder. Vectors of one fit share a space."""

    @classmethod
    def fit(
        cls, line: ItemEncoder, corpus: Corpus, dim: int, progress: Progress | None = None
    ) -> Self:
        """Fit on these items; the same corpus gives the same encoder.

        Args:
            progress: Called with how many steps are done, of how many, where a fit takes long.

        Raises:
            TooFewError: there is too little to fit `dim` dimensions on.
        """
        ...

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        ...

    def encode(self, corpus: Corpus) -> NDArray[np.float32]:
        """Return float32 [items, dim]; zeros for an item that it can say nothing about.

        An item's vector does not depend on the others of the corpus, but on the behaviour it does:
        what happened since the fit is folded into the basis of the fit, which stays.
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


class GoesOn(FittedEncoder, Protocol):
    """An encoder whose line `goes_on`: another fit may begin with its weights."""

    def go_on(
        self, line: ItemEncoder, corpus: Corpus, since: int, progress: Progress | None = None
    ) -> Self:
        """Return a fit that began with these weights; the same corpus gives the same encoder.

        What it holds of items keeps its rows at the beginning; new ids get rows after them.

        Args:
            corpus: All that is known, also what was before.
            since: It learns from what happened since then, microseconds since 1970.

        Raises:
            TooFewError: too little happened since.
        """
        ...


class OneStep:
    """Base of encoders whose fit takes no time worth telling; the rest is as `FittedEncoder`."""

    @classmethod
    def fit(
        cls,
        line: ItemEncoder,
        corpus: Corpus,
        dim: int,
        progress: Progress | None = None,  # noqa: ARG003
    ) -> Self:
        """As `FittedEncoder.fit`; `progress` is never called."""
        return cls.fitted(line, corpus, dim)

    @classmethod
    def fitted(cls, line: Any, corpus: Corpus, dim: int) -> Self:
        """Fit on all that the corpus holds, by a line of the encoder's kind."""
        raise NotImplementedError
