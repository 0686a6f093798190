"""Who reads which item space; so how often each is fitted, and which fits go on from others."""

from dataclasses import dataclass
from datetime import timedelta

from models.items.spec import Trained
from models.lines import (
    Aggregator,
    CandidateSource,
    ItemEncoder,
    Ranker,
    candidate_lines,
    catalogue_lines,
    encoder_lines,
    ranker_lines,
)
from models.spec import Learned
from transformations.config import Config
from transformations.durations import said
from transformations.errors import InputError


@dataclass(frozen=True)
class Lines:
    """The catalogue, and who reads which item space."""

    encoders: tuple[ItemEncoder, ...]
    aggregators: tuple[Aggregator, ...]
    candidates: tuple[CandidateSource, ...]
    rankers: tuple[Ranker, ...]

    @classmethod
    def of(cls, config: Config) -> "Lines":
        """Read the workspace's catalogue."""
        return cls(
            encoder_lines(config),
            catalogue_lines(config),
            candidate_lines(config),
            ranker_lines(config),
        )

    def reads(self, ranker: Ranker) -> list[Aggregator]:
        """Return the aggregators that a ranker reads."""
        return [line for line in self.aggregators if str(line) in ranker.aggregators]

    def space_of(self, line: Aggregator) -> str:
        """Return the encoder whose space a line reads."""
        return line.items or str(self.encoders[0])

    def rankers_of(self, encoder: str) -> list[Ranker]:
        """Return the rankers that read a space, through their aggregators."""
        return [
            ranker
            for ranker in self.rankers
            if encoder in {self.space_of(line) for line in self.reads(ranker)}
        ]

    @property
    def of_candidates(self) -> set[str]:
        """The spaces that candidate sources read."""
        found = {source.space for source in self.candidates if source.space}
        if any(source.reads_vectors and not source.space for source in self.candidates):
            found.add(str(self.encoders[0]))
        named = {getattr(source, "aggregator", None) for source in self.candidates}
        return found | {self.space_of(line) for line in self.aggregators if str(line) in named}

    def is_read(self, encoder: str) -> bool:
        """Whether a candidate source or a ranker reads a space."""
        return encoder in self.of_candidates or bool(self.rankers_of(encoder))

    def trained_with(self, line: Aggregator) -> str | None:
        """Return the item encoder whose training gives a line its weights; None without one."""
        space = self.space_of(line)
        encoder = next(one for one in self.encoders if str(one) == space)
        shared = isinstance(encoder, Trained) and isinstance(line, Learned) and encoder.trains(line)
        return space if shared else None

    @property
    def fitted(self) -> list[str]:
        """The spaces in which something is fitted: themselves, or a line that learns in them."""
        learn = {self.space_of(line) for line in self.aggregators if isinstance(line, Learned)}
        return [str(one) for one in self.encoders if one.encoder is not None or str(one) in learn]


def rhythms(config: Config, lines: Lines) -> dict[str, timedelta | None]:
    """Return how often each item space and ranker is fitted; None where a person asks for it.

    A space follows the slowest of the rankers that read it. One that only candidate sources read
    has `rhythm.spaces`, and one that nothing here reads is left to a person.

    Raises:
        InputError: `rhythm.lines` names what is no encoder and no ranker, or has a ranker fitted
            less often than a space that it reads.
    """
    rhythm = config.rhythm
    names = [*map(str, lines.encoders), *map(str, lines.rankers)]
    unknown = sorted({*rhythm.lines} - {*names})
    if unknown:
        raise InputError(
            f"{config.file.name}: rhythm.lines: expected item encoders and rankers of "
            f"{config.catalogue} ({', '.join(names)}), got {', '.join(unknown)}"
        )
    found = {str(one): rhythm.lines.get(str(one), rhythm.rankers) for one in lines.rankers}
    for encoder in map(str, lines.encoders):
        readers = [found[str(ranker)] for ranker in lines.rankers_of(encoder)]
        default = rhythm.spaces if encoder in lines.of_candidates else None
        if readers:
            default = None if None in readers else max(every for every in readers if every)
        every = rhythm.lines.get(encoder, default)
        for ranker in lines.rankers_of(encoder):
            slower = found[str(ranker)]
            if every is not None and (slower is None or slower > every):
                raise InputError(
                    f"{config.file.name}: rhythm: {ranker} reads the vectors of {encoder}. A new "
                    "fit of a space has other coordinates, so everything that reads it is fitted "
                    f"again with it; expected {ranker} at least every {said(every)}, as {encoder}, "
                    f"got {said(slower)}"
                )
        found[encoder] = every
    return found


def incremental(config: Config, lines: Lines) -> set[str]:
    """Return the item encoders, aggregators and rankers whose fits go on from the one before.

    Those that cannot are left out where nobody named them: `train.mode` is for those that can.

    Raises:
        InputError: `train.lines` names what is no line, or asks of one what it cannot.
    """
    train = config.train
    cannot = {str(one): "it is fitted from nothing" for one in lines.encoders if not one.goes_on}
    cannot |= {str(one): "it is fitted from nothing" for one in lines.rankers if not one.goes_on}
    for line in lines.aggregators:
        with_space = lines.trained_with(line)
        if with_space is not None:
            cannot[str(line)] = f"its weights come of the training of {with_space}: name that"
        elif not isinstance(line, Learned):
            cannot[str(line)] = "it has no weights"
    names = [*map(str, (*lines.encoders, *lines.aggregators, *lines.rankers))]
    wrong = [
        f"got {name}" if name not in names else f"got {name}: incremental, but {cannot[name]}"
        for name, mode in train.lines.items()
        if name not in names or (mode == "incremental" and name in cannot)
    ]
    if wrong:
        can = ", ".join(name for name in names if name not in cannot) or "there is none"
        raise InputError(
            f"{config.file.name}: train.lines: expected lines of {config.catalogue} that learn by "
            f"steps ({can}), {'; '.join(wrong)}"
        )
    asked = {name: train.lines.get(name, train.mode) for name in names if name not in cannot}
    return {name for name, mode in asked.items() if mode == "incremental"}
