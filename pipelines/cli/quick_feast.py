"""Feast imported in a third of its time, for commands that are typed and waited for."""


def import_feast() -> None:
    """Import Feast without typeguard's instrumentation of its declarations.

    typeguard rewrites each decorated class when Feast is imported: 2 of 3 seconds. Without it, a
    wrong type in an Entity or a FeatureView is told later and less plainly; as with `python -O`,
    which switches it off too. `feast apply` and everybody who imports Feast first keep it.
    """
    import typeguard

    checked = typeguard.typechecked
    typeguard.typechecked = _unchecked  # type: ignore[assignment]
    try:
        import feast  # noqa: F401
    finally:
        typeguard.typechecked = checked


def _unchecked(target: object = None, **_: object) -> object:
    """Return what is decorated as it is; typeguard's decorator comes with and without brackets."""
    return _unchecked if target is None else target
