"""The whole path as a user walks it: simulate, run, show, fetch, join, add an aggregator, kill."""

import json
import re
import shutil
import signal
import subprocess
import sys
from datetime import timedelta

import numpy as np
import psutil
import pytest

from tests.worlds import plain_feast
from tests.worlds.clone import Clone
from tests.worlds.real_data import MOVIETWEETINGS, needs_movietweetings
from tests.worlds.servers import missing
from transformations.config import ROOT

pytestmark = pytest.mark.long

MARKET = ("--members", "600", "--jobs", "400", "--days", "50")

# Set after the imports: some of them make files of their own.
FULL_DISK = """
import resource, sys
import pipelines.daily
from pipelines.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
sys.argv = ["activity", "run", "--as-of", sys.argv[1]]
main()
"""


def snippet(name: str) -> str:
    """Return the README's Python block that follows the comment `test: <name>`."""
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"<!-- test: {name} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"README.md has no snippet marked 'test: {name}'"
    return found[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    clone = Clone(tmp_path_factory.mktemp("world"))
    clone.activity("simulate", *MARKET)
    clone.output = clone.activity("run", "--as-of", "last", "--backfill", "4", "--tour")
    return clone


@pytest.fixture(scope="module")
def newest(world):
    (row,) = world.rows("select max(event_timestamp) from '{data}/member_sequences/*/*.parquet'")
    return row[0]


def test_the_run_shows_what_it_did(world):
    for stage in (
        *("stg_activity", "items", "member_sequences", "member_embeddings", "read back"),
        *("member_stats", "item_stats", "candidate_lists", "ranking_pairs"),
    ):
        assert re.search(rf"✓ {stage} +[\d,]+ rows", world.output), stage
    for heading in (
        "Rows by stage",
        "last actions",
        "as the online store returns it",
        "A training set",
        "Where everything lies",
        "What to type next",
    ):
        assert heading in world.output
    assert "Warning" not in world.output


def test_nothing_is_lost(world):
    (taken,) = world.rows("select count(*) from '{data}/simulated/events/*.parquet'")
    (staged,) = world.rows("select count(*) from '{data}/activity/*/*.parquet'")
    (refused,) = world.rows("select count(*) from '{data}/quarantine/*/*.parquet'")
    (doubled,) = world.rows(
        "select count(*) - count(distinct (member_id, item_id, action, event_timestamp)) from "
        "'{data}/simulated/events/*.parquet' where member_id is not null and action <> 'VIEW' "
        "and event_timestamp > '1970-01-01'"
    )
    assert taken[0] == staged[0] + refused[0] + doubled[0]
    assert refused[0] > 0


@pytest.mark.redis
def test_the_demo_replays_the_last_day(world, newest):
    """A day in four seconds; every event goes through, and the live store is left alone."""
    if shutil.which("redis-server") is None:
        missing("no redis-server on the PATH")
    rows = "select count(*), max(created_timestamp) from '{data}/member_sequences/*/*.parquet'"
    before = world.rows(rows)
    shown = world.activity("stream", "--demo", "--speed", "20000")
    (day,) = world.rows(
        "select count(*) from '{data}/activity/*/*.parquet' where event_timestamp >= "
        f"timestamptz '{newest - timedelta(days=1)}' and event_timestamp < timestamptz '{newest}'"
    )
    assert f"{day[0]:,} of {day[0]:,}" in shown
    assert "before and after" in shown
    assert "nearest" in shown
    assert world.rows(rows) == before


@pytest.mark.redis
def test_a_demo_that_is_ended_ends_its_redis(world):
    """Ended as soon as it says that it begins: its thread may be started or not."""
    if shutil.which("redis-server") is None:
        missing("no redis-server on the PATH")
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "stream", "--demo", "--speed", "1"],
        cwd=world.root,
        env=world.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert any("times as fast" in line for line in process.stdout)
            (server,) = [
                child
                for child in psutil.Process(process.pid).children(recursive=True)
                if "redis-server" in child.name()
            ]
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=600)
            assert process.returncode == 0, said
            assert not server.is_running()
        finally:
            process.kill()  # a demo that does not end must not fail the tests after this one


def test_a_snapshot_a_day_and_a_row_a_member(world):
    days = world.rows(
        "select event_timestamp, count(*), count(distinct member_id) from "
        "'{data}/member_sequences/*/*.parquet' group by 1 order by 1"
    )
    assert len(days) == 5
    for view in ("member_activity_average_v1", "member_activity_decay_v1"):
        assert days == world.rows(
            "select event_timestamp, count(*), count(distinct member_id) from "
            f"'{{data}}/member_embeddings/{view}/*/*.parquet' group by 1 order by 1"
        )
    assert all(rows == members for _, rows, members in days)


def test_when_a_snapshot_could_be_read(world, newest):
    spans = world.rows(
        "select event_timestamp, min(created_timestamp), max(created_timestamp) from "
        "'{data}/member_embeddings/member_activity_decay_v1/*/*.parquet' group by 1"
    )
    live = [(first, last) for as_of, first, last in spans if as_of == newest]
    (published,) = json.loads(
        world.python(
            "import json\nfrom operations.ledger import Ledger\n"
            "from transformations.config import load_config\n"
            "runs = Ledger(load_config()).last_runs()\n"
            "print(json.dumps([r['published_at'] for r in runs if r['published_at']]))"
        )
    )
    assert [(first.isoformat(), last.isoformat()) for first, last in live] == [
        (published, published)
    ]
    past = [(as_of, first, last) for as_of, first, last in spans if as_of != newest]
    assert len(past) == 4
    for as_of, first, last in past:
        assert first == last == as_of + timedelta(hours=6)


def test_show_and_status(world, newest):
    (member,) = world.rows(
        f"select member_id from '{{data}}/member_sequences/as_of={newest:%Y-%m-%d}/*.parquet' "
        "where n_actions > 3 order by 1 limit 1"
    )
    shown = world.activity("show", str(member[0]))
    assert f"Member {member[0]}: last actions" in shown
    assert "ranker_decay_v1" in shown
    assert "64 floats" in shown
    status = world.activity("status")
    assert "member_activity_average_v1" in status
    assert "action is unknown" in status
    assert f"Online: the snapshot of {newest:%Y-%m-%d}" in status


def test_running_again_changes_nothing(world, newest):
    before = world.tables()
    world.activity("run", "--as-of", f"{newest:%Y-%m-%d}")
    assert world.tables() == before


def test_an_older_run_does_not_overwrite_a_newer_one_online(world, newest):
    older = newest - timedelta(days=2)
    message = world.activity("run", "--as-of", f"{older:%Y-%m-%d}", fails=2)
    assert f"activity backfill --from {older:%Y-%m-%d}" in " ".join(message.split())


def test_too_many_refused_rows_publish_nothing(world):
    before = world.tables()
    yaml = world.root / "activity.yaml"
    text = yaml.read_text()
    try:
        yaml.write_text(text + "\nactions: {APPLY: positive, DISMISS: negative}\n")
        message = world.activity("run", "--as-of", "last", fails=1)
    finally:
        yaml.write_text(text)
    assert "run failed" in message
    assert "action is unknown" in " ".join(message.split())
    after = world.tables()
    assert {name: rows for name, rows in after.items() if "quarantine" not in name} == {
        name: rows for name, rows in before.items() if "quarantine" not in name
    }


def test_readme_ranker(world, newest):
    rows = world.rows(
        "select apply_embedding, n_actions from '{data}/member_embeddings/"
        f"member_activity_decay_v1/as_of={newest:%Y-%m-%d}/*.parquet' where member_id = 42"
    )
    printed = world.python(
        snippet("ranker") + "\nimport json\nprint(json.dumps([features['apply_embedding'][0], "
        "features['n_actions'], features['cosine_apply']]))"
    )
    vector, counts, match = json.loads(printed.splitlines()[-1])
    expected, count = rows[0] if rows else (None, 0)
    assert vector == (None if expected is None else pytest.approx(expected, abs=1e-6))
    assert counts == [count] * 3
    assert len(match) == 3


def test_readme_reader(world, newest):
    shapes = "print([features[n].shape for n in ('embedding', 'cosine_apply', 'n_actions')])"
    assert world.python(snippet("reader") + shapes) == "[(3, 64), (3,), (3,)]\n"
    same = (
        "rows = [{'member_id': 42, 'item_id': item} for item in (101, 102, 103)]\n"
        "service = store.get_feature_service('ranker_decay_v1')\n"
        "plain = store.get_online_features(features=service, entity_rows=rows).to_dict()\n"
        "ours = features.to_dict()\n"
        "assert ours == {name: plain[name] for name in ours}, (ours, plain)\n"
        "assert set(plain) - set(ours) == {'member_id', 'item_id'}\n"
    )
    world.python(snippet("reader") + same)


def test_readme_recommend(world):
    shown = "import json\nprint(json.dumps([answer.path, answer.ranker, len(answer.items)]))"
    printed = world.python(snippet("recommend") + shown)
    path, ranker, count = json.loads(printed.splitlines()[-1])
    assert (path, ranker, count) == ("ranked", "wide_and_deep_v1", 10)
    said = world.activity("recommend")
    assert "Recommendations, ordered by wide_and_deep_v1" in said
    assert "http://localhost:6570/" in said


@pytest.mark.skipif(plain_feast.switched_on(), reason="every world here is plain Feast's")
def test_plain_feast_does_the_same(tmp_path, world, newest):
    """Without the three class paths it is Feast's own stores that serve the same tables."""
    clone = Clone(tmp_path)
    settings = clone.root / "feature_store.yaml"
    assert settings.read_text().count("type: stores.") == 3
    plain_feast.rewrite(clone.root)
    assert settings.read_text().count("type: stores.") == 0
    clone.activity("simulate", *MARKET)
    clone.activity("run", "--as-of", f"{newest:%Y-%m-%d}", "--backfill", "1", "--tour")
    here = world.tables()
    # Another test has added to the world's quarantine.
    there = {name: rows for name, rows in clone.tables().items() if "quarantine" not in name}
    assert set(there) <= set(here)
    for name, rows in there.items():
        assert len(rows) == len(here[name])
        for row, other in zip(rows, here[name], strict=True):
            for got, expected in zip(row, other, strict=True):
                if isinstance(got, list) and got and isinstance(got[0], float):
                    # Snapshots of another number share the batches of a product of matrices.
                    np.testing.assert_allclose(
                        np.array(got, float), np.array(expected, float), atol=2e-6, rtol=0
                    )
                else:
                    assert got == expected, name


def test_readme_training(world, newest):
    world.rows(
        "copy (select member_id, item_id, event_timestamp, action <> 'DISMISS' as label from "
        "'{data}/activity/*/*.parquet' where event_timestamp >= "
        f"'{newest - timedelta(days=3):%Y-%m-%d}' order by all limit 200) "
        f"to '{world.root}/labels.parquet'"
    )
    world.python(snippet("training") + "\ntraining.to_parquet('training.parquet')")
    # The newest snapshot that was readable at the label's time, by a plain loop over the tables.
    joined = world.rows(
        f"select member_id, item_id, event_timestamp, n_actions, last_action_at, apply_embedding "
        f"from '{world.root}/training.parquet'"
    )
    snapshots: dict = {}
    for member, as_of, created, *features in world.rows(
        "select member_id, event_timestamp, created_timestamp, n_actions, last_action_at, "
        "apply_embedding from '{data}/member_embeddings/member_activity_decay_v1/*/*.parquet'"
    ):
        snapshots.setdefault(member, []).append((as_of, created, features))
    assert len(joined) == 200
    seen = 0
    for member, _, moment, *features in joined:
        readable = [s for s in snapshots.get(member, []) if s[0] <= moment and s[1] <= moment]
        expected = max(readable)[2] if readable else [0, None, None]
        seen += bool(readable)
        assert features == expected
    assert seen > 50


def test_the_readme_adds_one_line_to_the_catalogue_that_is_there():
    shown = snippet("aggregator").splitlines(keepends=True)
    (new,) = (line for line in shown if line.endswith("# the new line\n"))
    shown.remove(new)
    assert (ROOT / "models" / "catalog.py").read_text().endswith('"""\n\n' + "".join(shown))


def test_readme_aggregator(world, newest):
    catalog = world.root / "models" / "catalog.py"
    text = catalog.read_text()
    try:
        catalog.write_text(snippet("aggregator"))
        world.activity("run", "--as-of", f"{newest:%Y-%m-%d}")
        printed = world.python(
            "from feast import FeatureStore\nstore = FeatureStore('.')\n"
            "print(sorted(s.name for s in store.list_feature_services()))\n"
            "print(sorted(v.name for v in store.list_feature_views()))"
        )
    finally:
        catalog.write_text(text)
    assert "'ranker_decay_v2'" in printed
    assert "'member_activity_decay_v2'" in printed
    (row,) = world.rows(
        "select count(*) from '{data}/member_embeddings/member_activity_decay_v2/*/*.parquet'"
    )
    assert row[0] > 100


def test_a_killed_run_can_be_run_again(tmp_path):
    """SIGKILL after each of four stages, then one run to the end: as if never killed."""
    killed, whole = Clone(tmp_path / "killed"), Clone(tmp_path / "whole")
    for clone in (killed, whole):
        clone.train_once(clone.root / "models" / "catalog.py")
        clone.activity("simulate", *MARKET)
    for stage in ("stg_activity", "member_sequences", "member_embeddings", "feast apply"):
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", "run", "--as-of", "last"],
            cwd=killed.root,
            env=killed.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for line in process.stdout:
            if line.startswith(f"✓ {stage}"):
                process.send_signal(signal.SIGKILL)
                break
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    killed.activity("run", "--as-of", "last")
    whole.activity("run", "--as-of", "last")
    assert killed.tables() == whole.tables()
    assert not list((killed.root / "data").rglob("*.tmp"))


def test_a_full_disk_fails_the_run_and_keeps_what_was(world, newest):
    """A limit on file size, set by the system: writes beyond it fail as on a full disk."""
    before = world.tables()
    data = world.root / "data"
    # A table is what fails, so the ledger has room.
    limit = 2 * (data / "state" / "ledger.db").stat().st_size
    assert max(file.stat().st_size for file in data.glob("member_embeddings/**/*.parquet")) > limit
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, f"{newest:%Y-%m-%d}", str(limit)],
        cwd=world.root,
        env=world.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "too large" in " ".join(done.stderr.split())
    assert world.tables() == before
    world.activity("run", "--as-of", f"{newest:%Y-%m-%d}")
    assert world.tables() == before


@needs_movietweetings
def test_movietweetings(tmp_path):
    clone = Clone(tmp_path)
    read = tmp_path / "read"
    clone.activity("import", "movietweetings", str(MOVIETWEETINGS), str(read))
    sources = ("--events", str(read / "events.parquet"), "--items", str(read / "items.parquet"))
    assert "365d" in clone.activity("init", "movietweetings", *sources)
    workspace = clone.root / "workspaces" / "movietweetings"
    clone.train_once(workspace / "catalog.py")
    settings = workspace / "activity.yaml"
    settings.write_text(settings.read_text() + "\nrecommend: {precompute: 100}\n")
    config = ("--config", "movietweetings")
    clone.activity("run", *config, "--as-of", "2013-11-01")
    # Of 246 days a tenth is held back from the fits: what is before is left out, and said.
    said = clone.activity("backfill", *config, "--from", "2013-10-01", "--to", "2013-10-11")
    assert "7 of 11 snapshots are left out" in " ".join(said.split())
    data = "workspaces/movietweetings/data"
    days = clone.rows(
        "select event_timestamp, count(*) from '{data}/member_sequences/*/*.parquet' "
        "group by 1 order by 1",
        data,
    )
    assert len(days) == 5
    # The plain count of members with a rating in the window, plus those who just left it.
    for as_of, rows in (days[0], days[-1]):
        (expected,) = clone.rows(
            "with acted as (select member_id, max(event_timestamp) as last from "
            f"'{read}/events.parquet' where event_timestamp < '{as_of}' group by 1) "
            f"select count(*) from acted where last >= '{as_of - timedelta(days=366)}'"
        )
        assert rows == expected[0]
    # What happened after the as_of is no fault of the rows: they wait for a later run.
    distinct = "count(distinct (member_id, item_id, action, event_timestamp))"
    (source_rows,) = clone.rows(f"select {distinct} from '{read}/events.parquet'")
    assert clone.rows("select count(*) from '{data}/activity/*/*.parquet'", data) == [source_rows]
    assert not (clone.root / data / "quarantine").exists()
    clone.activity("run", *config, "--as-of", "last")
    assert "Online: the snapshot of 2013-11-07" in clone.activity("status", *config)
