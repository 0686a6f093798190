"""Open the configured feature store and apply what the catalogue declares."""

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml
from feast import FeatureStore, FeatureView, OnDemandFeatureView
from feast.entity import Entity
from feast.errors import FeastError
from feast.feature_service import FeatureService
from feast.feature_view import DUMMY_ENTITY
from feast.repo_config import RepoConfig
from feast.repo_contents import RepoContents
from feast.repo_operations import apply_total_with_repo_instance

from feature_repo.project import marked_project
from feature_repo.views import declare
from models.spec import Aggregator
from operations.fits import chosen
from operations.workspace import workspace_of
from serving.publish.history import remove_orphans
from serving.publish.owner import claim
from transformations.config import Config
from transformations.errors import InputError
from transformations.secrets import expanded, redact, unset
from transformations.sources.sql_source import read_url


def open_store(config: Config) -> FeatureStore:
    """Open the configured feature store, the same one from any working folder.

    Raises:
        InputError: as `store_settings`.
    """
    settings = store_settings(config)
    # The ibis that Feast pins calls what the newest DuckDB deprecates, and Feast shows it.
    warnings.filterwarnings("ignore", r"fetch_arrow_table\(\)", DeprecationWarning)
    return FeatureStore(repo_path=str(config.root), config=settings)


def store_settings(config: Config) -> RepoConfig:
    """Return Feast's settings, with the variables of this process's environment filled in.

    Feast resolves an online store's relative path against the repository root, but a SQLite
    registry's against the working folder. Here both are resolved against the root.

    Raises:
        InputError: the settings file is missing or wrong, or names an unset environment variable.
    """
    file = config.path(config.feature_store)
    try:
        raw = yaml.safe_load(file.read_text())
        missing = sorted(set(unset(raw)))
        if missing:
            raise InputError(
                f"{file} needs environment variables that are not set: {', '.join(missing)}"
            )
        path = raw["registry"]["path"] if isinstance(raw["registry"], dict) else None
        _refuse_commas(file, raw.get("online_store"))
        raw = expanded(raw)
        if path is not None and raw["registry"].get("registry_type") == "sql":
            raw["registry"]["path"] = _absolute(path, config.root)
        feast_config = RepoConfig(**raw)
    except FileNotFoundError:
        raise InputError(f"feature_store: expected Feast's settings at {file}") from None
    except KeyError as error:
        raise InputError(f"{file}: expected the key {error}, which is missing") from None
    except (TypeError, ValueError, yaml.YAMLError, sa.exc.ArgumentError, FeastError) as error:
        raise InputError(f"{file} is not what Feast expects: {error}") from None
    feast_config.repo_path = config.root
    return feast_config


def apply(
    config: Config, store: FeatureStore, aggregators: Sequence[Aggregator] | None = None
) -> int:
    """Apply the catalogue as `feast apply` does: register, change and remove objects.

    It also recreates the tables of an online store that was deleted, and works after `feast
    teardown`.

    Returns the number of declared objects.

    Raises:
        InputError: the project in the registry or online store is another workspace's.
    """
    aggregators = chosen(config, aggregators)
    claim(config, store)
    objects = declare(config, aggregators)
    views = [o for o in objects if isinstance(o, FeatureView)]
    contents = RepoContents(
        projects=[
            marked_project(workspace_of(config), store.project, store.config.project_description)
        ],
        data_sources=[view.batch_source for view in views],
        entities=[*(o for o in objects if isinstance(o, Entity)), DUMMY_ENTITY],
        feature_views=views,
        on_demand_feature_views=[o for o in objects if isinstance(o, OnDemandFeatureView)],
        feature_services=[o for o in objects if isinstance(o, FeatureService)],
        stream_feature_views=[],
        label_views=[],
        permissions=[],
    )
    with quiet():
        remove_orphans(store)
        apply_total_with_repo_instance(
            store, store.project, store.registry, contents, skip_source_validation=True
        )
        # Feast trusts its registry and does not recreate the tables of a deleted SQLite online
        # store. Where the tables exist, this does nothing.
        store.provider.update_infra(store.project, [], views, [], contents.entities, partial=True)
    return len(objects)


def _refuse_commas(file: Path, online: Any) -> None:
    """Refuse a password with a comma where Feast would take what follows for another setting."""
    given = online.get("connection_string") if isinstance(online, dict) else None
    for name in re.findall(r"password=\$\{?(\w+)", str(given)):
        if "," in os.environ.get(name, ""):
            raise InputError(
                f"{file}, online_store.connection_string: expected a password without a comma, at "
                f"which Feast divides the text; got one in the variable {name}. Choose another"
            )


def _absolute(url: str, root: Path) -> str:
    """Fill in a URL's variables, make a SQLite file's path absolute and create its folder."""
    braced = re.sub(r"\$(\w+)", lambda it: f"${{{it[1]}}}" if it[1] in os.environ else it[0], url)
    parsed = read_url("registry.path", braced)
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        return parsed.render_as_string(hide_password=False)
    file = root / str(parsed.database)
    file.parent.mkdir(parents=True, exist_ok=True)
    return parsed.set(database=str(file)).render_as_string(hide_password=False)


def _aside(stream: Any) -> io.StringIO:
    """Return what collects output. rich reads `rich_proxied_file`, so bars still reach the screen.

    Not a class of this module: Feast writes through click, which keeps each stream that it ever
    wrote to, and with the stream its class, this module, and all that it imports. After a training
    those outlive Python, and DuckDB's binding then prints a page of names that it calls leaked.
    """
    collected = io.StringIO()
    vars(collected)["rich_proxied_file"] = getattr(stream, "rich_proxied_file", stream)
    return collected


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Feast's output off the terminal; attach it to an error as a note."""
    out, err = _aside(sys.stdout), _aside(sys.stderr)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
    except Exception as error:
        said = (out.getvalue() + err.getvalue()).strip()
        if said:
            error.add_note(redact(f"Feast said:\n{said[-2000:]}"))
        raise
