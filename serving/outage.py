"""What the online stores raise while they are away; a later try may succeed."""

from stores.kinds import KINDS

STORE_GONE: tuple[type[Exception], ...] = (
    OSError,
    *(error for kind in KINDS for error in kind.gone),
)
