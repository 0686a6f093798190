"""activity.yaml: what it may say, and how a wrong one is refused."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from transformations import names
from transformations.config import CONFIG_VARIABLE, ROOT, Config, load_config
from transformations.errors import InputError

LEAST: dict[str, Any] = {"items": {"text": ["title"]}}


def load(folder: Path, content: Any) -> Config:
    """Write a configuration, or text that should be one, and load it."""
    file = folder / "activity.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_config(file)


def test_defaults_are_the_designs(tmp_path: Path) -> None:
    config = load(tmp_path, LEAST)

    assert config.member_id_type == "int64"
    assert {name: action.sign for name, action in config.actions.items()} == {
        "APPLY": "positive",
        "SAVE": "positive",
        "DISMISS": "negative",
    }
    assert (config.window, config.length, config.dim) == (timedelta(days=28), 32, 64)
    assert config.publish_delay == timedelta(hours=6)
    assert config.events.max_refused_share == 0.05
    assert config.events.columns.ingested_at is None
    assert config.duckdb.memory_limit == "2GB"
    assert config.data == ROOT / "data"


def test_one_id_type_stands_for_both_and_each_may_have_its_own(tmp_path: Path) -> None:
    both = load(tmp_path, LEAST | {"id_type": "string"})
    assert both.rules.id_types == {"member_id": "string", "item_id": "string"}
    apart = load(tmp_path, LEAST | {"id_type": "string", "member_id_type": "int64"})
    assert apart.rules.id_types == {"member_id": "int64", "item_id": "string"}
    # Digests of one type stay those that states and marks were made with before.
    assert (both.rules.id_key, apart.rules.id_key) == ("string", "int64/string")


class TestWorkspaces:
    def make(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        (folder / "activity.yaml").write_text(yaml.safe_dump(LEAST))
        (folder / "feature_store.yaml").touch()
        (folder / "catalog.py").write_text("AGGREGATORS = ()\n")
        return folder

    def test_paths_start_at_the_folder_and_so_does_its_catalogue(self, tmp_path: Path) -> None:
        folder = self.make(tmp_path / "films")
        for given in (folder, folder / "activity.yaml"):
            config = load_config(given)
            assert config.root == folder
            assert config.data == folder / "data"
            assert config.catalogue == folder / "catalog.py"
            assert config.model_copy(update={"dim": 8}).root == folder

    def test_one_is_found_from_a_folder_below_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
        folder = self.make(tmp_path / "films")
        (folder / "deep").mkdir()
        monkeypatch.chdir(folder / "deep")
        assert load_config().root == folder

    def test_a_file_elsewhere_belongs_to_the_repository(self, tmp_path: Path) -> None:
        config = load(tmp_path, LEAST)
        assert config.root == ROOT
        assert config.catalogue == ROOT / "models" / "catalog.py"


def test_what_a_user_says(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        data_dir: /elsewhere
        events:
          source: postgresql+psycopg://host/shop
          table: shop.clicks
          incremental_column: seq
          columns: {member_id: user_id, ingested_at: loaded_at}
          time_unit: ms
        id_type: string
        actions: {LIKE: positive, SKIP: negative}
        window: 12h
        publish_delay: 0d
        fit_holdback: 7d
        items:
          source: items.parquet
          embedding: theirs
        duckdb: {memory_limit: 1.5GiB, threads: 2}
        """,
    )

    assert config.data == Path("/elsewhere")
    assert config.events.is_sql
    assert config.events.columns.member_id == "user_id"
    assert config.events.columns.item_id == "item_id"
    assert config.window == timedelta(hours=12)
    assert config.publish_delay == timedelta(0)
    assert config.fit_holdback == timedelta(days=7)
    assert config.items_dir == Path("/elsewhere/items/encoder=theirs/version=1")
    assert [names.count_column(action) for action in config.actions] == ["n_like", "n_skip"]
    assert [config.rules.action_code(action) for action in config.actions] == [1, 2]


PINNED = {"item": 7, "position": 1}
BOOST = {"column": "kind", "is": "job", "by": 2}
REFUSED = [
    ({"data_dir": "s3://team/market"}, "data_dir: expected a folder on a disk, got s3://team"),
    ({"windw": "28d"}, "windw: unknown key; expected one of: data_dir, feature_store, events"),
    (
        {"events": {"columns": {"user": "u"}}},
        "events.columns.user: unknown key; expected one of: member_id, item_id, action",
    ),
    ({"items": None}, "items: "),
    (
        {"events": {"attributes": {"dwell": {"type": "number", "units": "s"}}}},
        "events.attributes.dwell.units: unknown key; expected one of: type, column, unit",
    ),
    (
        {"recommend": {"rules": {"boosts": [BOOST | {"equals": "x"}]}}},
        "recommend.rules.boosts.0.equals: unknown key; expected one of: column, is, by",
    ),
    (
        {"recommend": {"rules": {"caps": {"city": 3}}}},
        "  recommend.rules: expected columns of items.categories (none), got city",
    ),
    (
        {"recommend": {"rules": {"leave_out_acted": "7d", "leave_out_actions": ["LIKE"]}}},
        "recommend.rules.leave_out_actions: expected actions among APPLY, SAVE, DISMISS, got LIKE",
    ),
    (
        {"recommend": {"rules": {"leave_out_actions": ["SAVE"]}}},
        "recommend.rules: `leave_out_actions` needs `leave_out_acted`: within which time",
    ),
    (
        {"recommend": {"rules": {"leave_out_acted": "29d"}}},
        "recommend.rules.leave_out_acted: a sequence knows the actions of the window",
    ),
    (
        {"recommend": {"rules": {"pinned": [{"item": i, "position": 1} for i in (7, 8)]}}},
        "recommend.rules.pinned: expected each position once, got [1, 1]",
    ),
    (
        {"item_id_type": "string", "recommend": {"rules": {"pinned": [PINNED]}}},
        "recommend.rules.pinned: expected items of the type string (item_id_type), got 7; quote it",
    ),
    ({"recommend": {"deadline": "0ms"}}, "recommend.deadline: expected a duration above zero"),
    ({"recommend": {"context": {"Device": "category"}}}, "a key of lower-case letters"),
    ({"recommend": {"rules": {"explore": 1}}}, "recommend.rules.explore: Input should be less"),
    ({"window": "28"}, "window: expected a duration such as 28d, 12h, 30m or 45s, got '28'"),
    ({"window": "0d"}, "window: expected a duration above zero"),
    ({"publish_delay": "-1h"}, "publish_delay: expected a duration such as 28d"),
    ({"length": 0}, "length: Input should be greater than or equal to 1, got 0"),
    ({"dim": "many"}, "dim: Input should be a valid integer"),
    (
        {"member_id_type": "int32"},
        "member_id_type: Input should be 'int64' or 'string', got 'int32'",
    ),
    ({"actions": {}}, "expected at least one action, got none"),
    (
        {"actions": {"APPLY": "good"}},
        "actions.APPLY.sign: Input should be 'positive', 'negative' or 'neutral'",
    ),
    (
        {"actions": {"VIEW": {"positive_if": "dwell >= 30"}}},
        "  actions.VIEW.positive_if: at character 1 of 'dwell >= 30': unknown name 'dwell'",
    ),
    (
        {"actions": {"SEARCH": {"text": "query", "item_kind": "job"}}},
        "actions.SEARCH: an action with `text` is on items of the kind 'search'",
    ),
    (
        {"actions": {"not a name": "positive"}},
        "actions.not a name: expected an action name of letters, digits and _, got 'not a name'",
    ),
    ({"actions": {"REPLY_Y": "positive"}}, "drops columns that end in _y; choose another name"),
    (
        {"actions": {"SAVE": "positive", "Save": "negative"}},
        "two actions differ only in case: ['SAVE', 'Save']",
    ),
    (
        {"events": {"attributes": {"weight": {"type": "number"}}}},
        "the attribute 'weight' would be a column of that name, which is taken",
    ),
    ({"actions": {"Actions": "positive"}}, "would make the column n_actions, already taken"),
    ({"events": {"time_unit": "seconds"}}, "events.time_unit: Input should be 'timestamp', 's'"),
    ({"events": {"max_refused_share": 5}}, "events.max_refused_share: Input should be less than"),
    ({"events": {"source": "sqlite:///a.db"}}, "events: a database source needs `table`"),
    ({"events": {"table": "t"}}, "events: `table` belongs to a database source"),
    ({"items": {}}, "items: expected `embedding`, or at least one column in `text`"),
    ({"items": {"embedding": ["v", "v"]}}, "items: embedding: expected each column once"),
    (
        {"items": {"text": ["t"], "encoder": {"name": "tfidf_svd", "version": 2}}},
        "leave out the key, and write ITEM_ENCODERS = (TfidfSvd(version=1),) into catalog.py",
    ),
    (
        {"items": {"embedding": "v", "encoder": {"name": "theirs"}}},
        '(Given(name="…", version=1, column="v"),) into catalog.py',
    ),
    ({"fit_holdback": "soon"}, "fit_holdback: expected a duration such as 28d"),
    ({"duckdb": {"memory_limit": "much"}}, "duckdb.memory_limit: String should match pattern"),
    ({"duckdb": {"threads": 0}}, "duckdb.threads: Input should be greater than or equal to 1"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[text for _, text in REFUSED])
def test_a_wrong_one_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        load(tmp_path, LEAST | change)

    assert str(error.value).startswith(f"{tmp_path}/activity.yaml has 1 problem(s):\n  ")
    assert message in str(error.value)


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2 problem\(s\)") as error:
        load(tmp_path, {"items": {"text": ["t"]}, "length": 0, "window": "x"})

    assert "  length: " in str(error.value)
    assert "  window: " in str(error.value)


def test_items_have_no_default(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="items: missing; this key has no default"):
        load(tmp_path, {"length": 32})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("- a", "expected keys and values, got list"),
        ("", "expected keys and values, got NoneType"),
    ],
)
def test_text_that_is_no_configuration(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(tmp_path, content)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(
        InputError, match=r"no configuration at nowhere\.yaml; expected a file like"
    ):
        load_config("nowhere.yaml")


def test_the_environment_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, LEAST | {"length": 7})
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "activity.yaml"))

    assert load_config().length == 7


def test_the_shipped_one_loads_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)

    assert load_config().data == ROOT / "data"
    assert load_config("activity.yaml").file == ROOT / "activity.yaml"


WORDS = ["NO", "no", "Off", "FALSE", "ON", "yes", "Yes", "TRUE", "true"]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("actions: {{{}: positive}}", "actions"),
        ("actions: {{SAVE: {}}}", "actions.SAVE"),
        ("actions: {{SAVE: {{text: {}}}}}", "actions.SAVE.text"),
        ("actions: {{SAVE: {{item_kind: {}}}}}", "actions.SAVE.item_kind"),
        ("events: {{columns: {{action: {}}}}}", "events.columns.action"),
        ("events: {{table: {}}}", "events.table"),
        ("events: {{attributes: {{{}: {{type: number}}}}}}", "events.attributes"),
        ("events: {{attributes: {{a: {{type: text, column: {}}}}}}}", "events.attributes.a.column"),
        ("items: {{text: [{}]}}", "items.text.0"),
        ("items: {{text: [title], kind: {}}}", "items.kind"),
    ],
)
def test_a_word_that_yaml_reads_as_a_truth_is_to_be_quoted(
    tmp_path: Path, word: str, place: str, key: str
) -> None:
    text = "" if place.startswith("items") else "items: {text: [title]}\n"
    file = tmp_path / "activity.yaml"
    file.write_text(text + place.format(word))
    with pytest.raises(InputError, match=rf"{key}.*quote it: YAML reads"):
        load_config(file)


@pytest.mark.parametrize("value", ["12", "2026-01-31", "1.5", "~"])
def test_a_number_or_a_date_as_a_name_is_to_be_quoted(tmp_path: Path, value: str) -> None:
    file = tmp_path / "activity.yaml"
    file.write_text(f"items: {{text: [{value}]}}")
    with pytest.raises(InputError, match=r"items.text.0.*quote it"):
        load_config(file)
