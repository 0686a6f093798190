"""What a workspace's data were made from, so that two data sets never become one.

The first run notes its sources. A later run that names others stops before it reads them. While no
action is staged yet, nothing is decided: a failed first run blocks nothing.
"""

import json

from transformations.config import Config
from transformations.errors import InputError
from transformations.files import replacing
from transformations.layout import partition_files
from transformations.places import is_in_objects
from transformations.secrets import without_user


def note_sources(config: Config) -> None:
    """Note what the data are made from, or refuse to mix them with others.

    Raises:
        InputError: the data were made from other sources, or with other types of ids.
    """
    now = sources_of(config)
    note = config.layout.sources
    if partition_files(config.layout.activity) and note.exists():
        _refuse_others(config, json.loads(note.read_text()), now)
    elif not note.exists() or json.loads(note.read_text()) != now:
        with replacing(note) as file:
            file.write_text(json.dumps(now, indent=1) + "\n")


def sources_of(config: Config) -> dict[str, str]:
    """Return what the configuration says the data are made from; no password is in it.

    An added action, attribute or column is not another source.
    """
    events, items = config.events, config.items
    return {
        "events.source": _named(config, events.source, events.table),
        "items.source": _named(config, items.source, items.table),
        **{f"{name}_type": kind for name, kind in config.rules.id_types.items()},
    }


def _named(config: Config, source: str, table: str | None) -> str:
    """Name a file by its path, a table by its database's URL, without user and password."""
    if "://" not in source:
        return str(config.path(source))
    if is_in_objects(source):
        return source.rstrip("/")
    return f"{without_user(source)} {table}"


def _refuse_others(config: Config, noted: dict[str, str], now: dict[str, str]) -> None:
    differing = [
        f"  {key}: made from {noted.get(key)}, {config.file.name} says {value}"
        for key, value in now.items()
        if noted.get(key) != value
    ]
    if differing:
        raise InputError(
            f"the data in {config.data} were made from other sources than {config.file} names:\n"
            + "\n".join(differing)
            + "\nNothing was read or written. To keep both, make a workspace for the new ones: "
            "activity init NAME --events ... --items ...\nTo start again here: activity reset "
            "(it says what it removes)"
        )
