"""The feature services of trained rankers: what each reads of a member and of an item."""

from collections.abc import Iterator, Mapping
from typing import Any

from feast import FeatureService, FeatureView
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination

from feature_repo.source import OWNER
from models.lines import ranker_lines
from models.rankers.package import is_packaged, read_manifest
from models.rankers.reading import Needs
from operations.rankers import made
from transformations.config import Config
from transformations.names import ranker_service


def ranker_services(config: Config, views: Mapping[str, FeatureView]) -> Iterator[FeatureService]:
    """Yield a service for each fit of a ranker, as far as its views are declared.

    Its features are those of the package: a join with it gives what the ranker was trained on. Its
    logging configuration says where the service writes what it read for a share of the answers.

    Args:
        views: By name.
    """
    for line in made(config, ranker_lines(config)):
        if not is_packaged(line, config):
            continue
        manifest: dict[str, Any] = read_manifest(config, line)
        needs = Needs.read(manifest["needs"])
        wanted: dict[str, list[str]] = {}
        for feature in (*needs.of_members(config.rules), *needs.of_items()):
            view, _, name = feature.partition(":")
            wanted.setdefault(view, []).append(name)
        if wanted.keys() <= views.keys():
            yield FeatureService(
                name=ranker_service(str(line)),
                features=[views[view][names] for view, names in wanted.items()],
                description=f"What the ranker {line} reads of a member and an item, beside the "
                "candidate sources' ranks, which no store holds.",
                tags={
                    "ranker": line.name,
                    "kind": line.kind,
                    "weights": manifest["weights_sha256"],
                },
                owner=OWNER,
                logging_config=LoggingConfig(
                    FileLoggingDestination(path=str(config.layout.logged_features / str(line))),
                    sample_rate=config.recommend.log_features,
                ),
            )
