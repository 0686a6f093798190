"""What answers are made from, kept open and swapped: of the release that serves, and of the others.

ledger ──► follow, several times per second ──► who is answered by which release
new fits, items, lists ──► refresh, now and then ──► new parts, opened beside the old ones
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from operations.traffic import Traffic
from serving.recommend.parts import Parts, popular_now
from serving.recommend.standby import Standby


class Opened:
    """Parts that are open, and who is answered from which; threads share it.

    Args:
        parts: Of the release that serves.
        reopen: Opens new parts where what they are made from has changed, else returns None.
        standby: Says which release answers, and opens those that may answer next. None: there is
            one, or none.
        closed_after: Seconds after which nothing uses parts any more that were replaced.
        changed: Is called when other parts answer than before.
    """

    def __init__(
        self,
        parts: Parts,
        reopen: Callable[[Parts], Parts | None],
        standby: Standby | None,
        closed_after: float,
        changed: Callable[[], object],
    ) -> None:
        self._parts, self._reopen, self._standby = parts, reopen, standby
        self._closed_after, self._changed = closed_after, changed
        self._ready: dict[int | None, Parts] = {}
        self._traffic = standby.traffic() if standby is not None else Traffic(parts.release)
        self._asked_for: int | None = None
        # Held while parts are swapped, never while some are opened.
        self._turning = threading.Lock()
        self._old: list[tuple[float, Parts]] = []

    @property
    def parts(self) -> Parts:
        """What answers are made from now, save for a treatment's members."""
        return self._parts

    def of(self, member: Any) -> tuple[Parts, str | None, bool]:
        """Return what a member is answered from, its arms, and whether that is its release.

        A treatment that is not open leaves its members to what serves the others, in their arm: who
        counts in it may not hang on what it can do.
        """
        with self._turning:
            release, arm = self._traffic.of(member)
            if release in (self._traffic.release, self._parts.release):
                return self._parts, arm, True
            parts = self._ready.get(release)
        return (self._parts, arm, False) if parts is None else (parts, arm, True)

    def is_answering(self, parts: Parts) -> bool:
        """Whether parts are in use, for all or for some members."""
        with self._turning:
            return parts is self._parts or parts is self._ready.get(parts.release)

    def refresh(self) -> bool:
        """Load new fits, items and lists; return whether there were new parts.

        Answers are made from the old ones until the new ones are there. After a failure the old
        ones stay. The releases that may answer next are opened too, and kept up.
        """
        self._close_old()
        self.follow()
        before = self._parts
        after = self._reopen(before)
        if after is None:
            popular = popular_now(before.sources, before.items)
            with self._turning:
                if self._parts is before:  # no other release answers by now
                    self._parts = replace(before, popular=popular)
            before.renew()
        else:
            self._take(before, after)
        if self._standby is not None:
            self._keep_ready(self._standby)
        return after is not None

    def _take(self, before: Parts, after: Parts) -> None:
        """Let new parts answer; where another release answers by now, keep them ready."""
        with self._turning:
            if self._parts is before or self._parts.release == after.release:
                # Of another release: it may come back, so it stays open.
                replaced, self._parts = self._parts, after
                if (stale := self._ready.pop(after.release, None)) is not None:
                    self._old.append((time.monotonic(), stale))
                if replaced.release != after.release:
                    self._put_ready(replaced)
                else:
                    self._old.append((time.monotonic(), replaced))
                self._changed()
            else:
                self._put_ready(after)

    def _keep_ready(self, standby: Standby) -> None:
        """Open what may answer next, close what may not any more."""
        with self._turning:
            kept, beside = dict(self._ready), self._parts
        opened = standby.opened(kept, beside)
        with self._turning:
            ready, self._ready = self._ready, {}
            for release, parts in opened.items():
                # The pointer may have moved meanwhile: what answers now is not kept beside itself.
                if release != self._parts.release:
                    self._ready[release] = parts
                elif parts is not self._parts:
                    self._old.append((time.monotonic(), parts))
            gone = [
                one for one in ready.values() if one not in (*self._ready.values(), self._parts)
            ]
            self._old += [(time.monotonic(), parts) for parts in gone]
            if gone:
                self._changed()
            shared = self._traffic.shared
            treatment = None if shared is None else self._ready.get(shared.release)
        if treatment is not None:  # as what serves the others
            popular = popular_now(treatment.sources, treatment.items)
            with self._turning:
                if self._ready.get(treatment.release) is treatment:
                    self._ready[treatment.release] = replace(treatment, popular=popular)
            treatment.renew()

    def _put_ready(self, parts: Parts) -> None:
        replaced = self._ready.get(parts.release)
        if replaced is not None:
            self._old.append((time.monotonic(), replaced))
        self._ready[parts.release] = parts

    def _close_old(self) -> None:
        """Close what was replaced, once the last answer from it was due long ago."""
        until = time.monotonic() - self._closed_after
        with self._turning:
            over = [parts for at, parts in self._old if at <= until]
            self._old = [(at, parts) for at, parts in self._old if at > until]
        for parts in over:
            parts.sources.close()

    def follow(self) -> bool:
        """Let the releases answer that the ledger names; return whether one is not open yet.

        Then a `refresh` opens it. What answered before stays open: to go back is a swap too. A
        treatment is asked for once; one that cannot be opened is tried again by each `refresh`.
        """
        if self._standby is None:
            return False
        traffic = self._standby.traffic()
        release, shared = traffic.release, traffic.shared
        with self._turning:
            self._traffic = traffic
            if release != self._parts.release:
                if release not in self._ready:
                    return True
                after = self._ready.pop(release)
                self._put_ready(self._parts)
                self._parts = after
                self._changed()
            wanted = None if shared is None else shared.release
            is_new = wanted not in (None, self._asked_for) and wanted not in self._ready
            self._asked_for = wanted
        return is_new

    def close(self) -> None:
        """Close all connections."""
        for parts in (*(old for _, old in self._old), *self._ready.values(), self._parts):
            parts.sources.close()
