"""What a line of CANDIDATES says, in plain Python: it is read without any library."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from transformations import names
from transformations.errors import InputError

ALL = "all"
"""The segment of everybody."""
CLUSTER = "cluster"
"""What `Popular.by` says where the clusters are of items, not members."""
CLUSTERS = 20
"""How many, where a line says nothing else; those that items are ranked in."""


@dataclass(frozen=True, kw_only=True)
class CandidateSource:
    """One line of CANDIDATES: a member in, items with scores out, the best first.

    A subclass names its `kind`, and where it keeps lists, their table and what makes them
    (models/candidates/build.py). The others are computed from what is online already.

    Attributes:
        name: Part of the names of its table and view. Another name than the default lets two
            settings of one kind live side by side.
        version: Part of both too. Raise it whenever the definition changes.
        count: Items that it brings per member at most.
    """

    kind: ClassVar[str]
    """The public name of what it computes; moving a file changes no name."""
    lists: ClassVar[str | None] = None
    """Address of the function that makes its lists, as "module:function"; None without lists."""
    table: ClassVar[str] = ""
    """What its lists are called: the table, and with name and version the view."""
    key: ClassVar[Literal["item_id", "segment"]] = "item_id"
    """What a list is of: an item, or a segment of members."""
    nothing: ClassVar[str] = "nothing is near to what the member did"
    """Why it may bring no item."""

    name: str
    version: int
    count: int = 200

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise InputError(
                f"expected a candidate source's name of lower-case letters, digits and _, got "
                f"{self.name!r}; it becomes part of the view's name"
            )
        self._expect("version", self.version >= 1, "1 or more")
        self._expect("count", self.count >= 1, "at least 1")

    def __str__(self) -> str:
        return names.fitted(self.name, self.version)

    @property
    def full_name(self) -> str:
        """What rankers call it, unlike that of any other line.

        >>> Popular(version=1).full_name, Neighbours(of="co_actions_v1", version=2).full_name
        ('popular_popular_v1', 'neighbours_co_actions_v2')
        """
        return f"{self.kind}_{self}"

    @property
    def space(self) -> str | None:
        """The item space that its lists are made from, as "co_actions_v1"; None without one."""
        return None

    @property
    def reads(self) -> str:
        """What it brings items by: a space, an aggregator, or what its own name says."""
        return self.space or self.name

    @property
    def reads_vectors(self) -> bool:
        """Whether its lists are made from item vectors: of its space, else of the first one."""
        return self.space is not None

    @property
    def is_refreshed(self) -> bool:
        """Whether an item refresh between two runs makes lists too: for items that are new."""
        return self.space is not None

    def view(self, space: names.Space) -> str:
        """Return the name of the Feast view of its lists, and of their folder.

        Args:
            space: The fit that is read; lists of two fits of a space never mix.

        >>> of = names.Space("co_actions", version=1, fit=3)
        >>> Popular(version=1).view(of), Neighbours(of="co_actions_v1", version=2).view(of)
        ('popular_items_popular_v1', 'item_neighbours_co_actions_v2_f3')
        """
        fit = 1 if self.space is None else space.fit
        return f"{self.table}_{names.fitted(self.name, self.version, fit)}"

    def _expect(self, setting: str, right: bool, expected: str) -> None:
        if not right:
            raise InputError(
                f"{self.name}: {setting}: expected {expected}, got {getattr(self, setting)!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Popular(CandidateSource):
    """What most members lately acted on positively; the same for all, or a list a segment.

    Attributes:
        days: Of activity that counts.
        newest: Instead of what is popular, what became known within `days`, the newest first: items
            too new to have been acted on.
        by: A category of `member_profile_v1`, as the view calls it: a list for each of its values.
            Members without one, with a new one, or with one that fewer than 5 members acted under
            get the list of all. Or "cluster": one list, which takes the most popular item of each
            content cluster of items in turn.
        clusters: How many, where `by` says so.
    """

    kind: ClassVar[str] = "popular"
    lists: ClassVar[str | None] = "models.candidates.popular:lists"
    table: ClassVar[str] = "popular_items"
    key: ClassVar[Literal["item_id", "segment"]] = "segment"
    nothing: ClassVar[str] = "no item was acted on, or became known, in its days"

    name: str = "popular"
    days: int = 7
    newest: bool = False
    by: str | None = None
    clusters: int = CLUSTERS

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("days", self.days >= 1, "at least 1")
        self._expect("clusters", self.clusters >= 1, "at least 1")
        self._expect("newest", not (self.newest and self.by), "False where `by` is given")

    @property
    def profile(self) -> str | None:
        """The category of members' profiles whose values have lists of their own."""
        return None if self.by == CLUSTER else self.by

    @property
    def reads_vectors(self) -> bool:
        """Clusters are of vectors of the first space."""
        return self.by == CLUSTER

    @property
    def is_refreshed(self) -> bool:
        """What is popular is counted once a run; what is new is new at any time."""
        return self.newest


@dataclass(frozen=True, kw_only=True)
class Neighbours(CandidateSource):
    """The items nearest to each item in a space; a member's last items vote with their lists.

    In a space of co-actions this is what item-kNN does, in one of text "similar content".

    Attributes:
        of: The item space, as "co_actions_v1".
        nearest: Neighbours that each item keeps.
        last: Positive actions of a member that vote, the newest ones.
        decay: The share of its vote that an action keeps per newer one.
    """

    kind: ClassVar[str] = "neighbours"
    lists: ClassVar[str | None] = "models.candidates.neighbours:lists"
    table: ClassVar[str] = "item_neighbours"

    name: str = ""
    of: str
    nearest: int = 50
    last: int = 10
    decay: float = 0.8

    def __post_init__(self) -> None:
        if not self.name:  # co_actions: the space says what the lists are
            object.__setattr__(self, "name", self.of.rpartition("_v")[0])
        super().__post_init__()
        self._expect("nearest", self.nearest >= 1, "at least 1")
        self._expect("last", self.last >= 1, "at least 1")
        self._expect("decay", 0 < self.decay <= 1, "above 0, at most 1")

    @property
    def space(self) -> str:
        """The item space that its lists are made from."""
        return self.of


@dataclass(frozen=True, kw_only=True)
class NearestToMember(CandidateSource):
    """The items nearest to a member's vectors, in the space that its aggregator reads.

    Of an aggregator with a vector per action, those of positive actions count; an item's score is
    the largest.

    Attributes:
        aggregator: Whose vectors, as "learned_decay_v2".
    """

    kind: ClassVar[str] = "nearest_to_member"

    name: str = ""
    aggregator: str

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.aggregator.rpartition("_v")[0])
        super().__post_init__()

    @property
    def reads(self) -> str:
        """The aggregator whose vectors it reads."""
        return self.aggregator
