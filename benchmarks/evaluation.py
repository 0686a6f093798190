"""docs/evaluation.md, and the evaluations that it shows: no number is typed by hand.

    python -m benchmarks.evaluation run NAME    # one set: workspace, activity evaluate, the JSON
    python -m benchmarks.evaluation             # the page, from the JSON in benchmarks/results

A set's workspace is workspaces/NAME, made where it is missing; its catalog.py says what is
compared. Real data lies in the folder that ACTIVITY_TEST_DATA names. A run that was interrupted
goes on where it was.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks import closed_loop
from benchmarks.report.both_stages import both_stages
from benchmarks.report.section import markdown

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "evaluation.md"
TEXT = HERE / "evaluation.md.txt"
LEFT_OUT = ("map", "members", "training", "distributions")
DATA = "ACTIVITY_TEST_DATA"


# What every real set compares; decayed vectors with the best r are made in each of its spaces.
CATALOGUE = """from models.items.spec import CoActions, Joint, TfidfSvd, Trained
from models.spec import GeometricDecay, LearnedDecay

LAYER = LearnedDecay(
    version=1, items="trained_v1", ranks="positive", projected=False, share="all", decays=2
)
ITEM_ENCODERS = (
    TfidfSvd(version=1),
    CoActions(version=1),
    Joint(version=1),
    Trained(version=1, layer=LAYER),
)
IN_TRAINED = dict(version=1, decay=0.8, ranks="positive", items="trained_v1")
AGGREGATORS = (
    GeometricDecay(name="decay_text", version=1, decay=0.8),
    GeometricDecay(name="decay_co_actions", version=1, decay=0.8, items="co_actions_v1"),
    GeometricDecay(name="decay_joint", version=1, decay=0.8, items="joint_v1"),
    LAYER,
    GeometricDecay(name="ranked_decay", **IN_TRAINED),
    GeometricDecay(name="pooled_decay", pooled=True, **IN_TRAINED),
)
"""


@dataclass(frozen=True)
class Set:
    """A set of data, and the settings of its workspace.

    Attributes:
        settings: Keys of activity.yaml besides what `activity init` guesses. The windows of real
            sets are long: their members act seldom, and the last 32 actions are what counts.
        importer: The command below `activity import` that makes its two files.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    importer: str | None = None


SETS = {
    "ifdb": Set({"window": "7300d"}),
    "xwines": Set({"window": "7300d"}),
    "movietweetings": Set({"window": "365d"}, importer="movietweetings"),
    "simulated": Set(),
}


def run(name: str, seeds: int) -> Path:
    """Evaluate one set; return the file of its result in benchmarks/results."""
    config = _simulated() if name == "simulated" else workspace_of(name)
    activity("evaluate", "--config", str(config), "--seeds", str(seeds))
    from transformations.config import load_config

    return keep(name, load_config(config).layout.evaluation / "result.json")


def workspace_of(name: str, data: str = "", lines: str = CATALOGUE) -> Path:
    """Return the activity.yaml of a set's workspace; make it where it is missing.

    Args:
        data: The set whose data it reads. Default: `name`.
        lines: Its catalogue.
    """
    from transformations.config import CONFIG, ROOT, WORKSPACES

    file = WORKSPACES / name / CONFIG
    catalogue = file.parent / "catalog.py"
    if not file.exists():
        if DATA not in os.environ:
            raise SystemExit(f"expected {DATA} to name the folder of {name}/, got nothing")
        source = Path(os.environ[DATA]) / (data or name)
        if SETS[name].importer is not None:
            made = WORKSPACES / f"{name}-source"
            activity("import", SETS[name].importer or "", str(source), str(made))
            source = made
        files = [f"--{what}={source / what}.parquet" for what in ("events", "items")]
        activity("init", name, *files)
    # Still the shipped one: it was made just now, or by a run that was killed here.
    if catalogue.read_text() == (ROOT / "models" / "catalog.py").read_text():
        settings = yaml.safe_load(file.read_text()) | SETS[name].settings
        file.write_text(yaml.safe_dump(settings, sort_keys=False))
        catalogue.write_text(lines)
    return file


def _simulated() -> Path:
    """Simulate the market of the repository's own workspace, unless it is there."""
    from transformations.config import CONFIG, ROOT

    activity("simulate", "--if-needed", "--config", str(ROOT / CONFIG))
    return ROOT / CONFIG


def activity(*arguments: str) -> None:
    """Type a command."""
    subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], check=True)


def keep(name: str, file: Path) -> Path:
    """Copy a result without the parts that only the HTML report shows; return the file."""
    # Six digits after the point are more than any interval tells apart.
    result = json.loads(file.read_text(), parse_float=lambda text: round(float(text), 6))
    kept = {key: value for key, value in result.items() if key not in LEFT_OUT}
    place = RESULTS / f"evaluation_{name}.json"
    place.write_text(json.dumps(kept, indent=1) + "\n")
    return place


def page() -> str:
    """Return the text of the page, with each set's figures."""
    text = TEXT.read_text()
    for name in SETS:
        text = text.replace(f"{{{{ {name} }}}}", _figures(name))
    text = text.replace("{{ new items }}", _ways()).replace("{{ both stages }}", both_stages())
    return text.replace("{{ closed loop }}", closed_loop.section())


def _ways() -> str:
    """Return the tables of benchmarks/new_items.py, one a world."""
    rows = json.loads((RESULTS / "new_items.json").read_text())["rows"]
    worlds = dict.fromkeys(row["world"] for row in rows)
    return "\n\n".join(_world([row for row in rows if row["world"] == name]) for name in worlds)


def _world(rows: Sequence[dict[str, Any]]) -> str:
    head = ["", "line", "HR@10, all", "HR@10, new", "NDCG@10, all", "NDCG@10, new"]
    keys = ("hr10_all", "hr10_new", "ndcg10_all", "ndcg10_new")
    of = (
        f"On the {rows[0]['world']}, {rows[0]['new_labels']:,} of {rows[0]['labels']:,} labels are "
        "on new items:\n\n"
    )
    return of + markdown(
        [*head, "new with a vector"],
        (
            [
                *(row["way"], row["line"]),
                *(f"{row[key]:.4f}" for key in keys),
                f"{row['with_vector_new']:.0%}",
            ]
            for row in rows
        ),
    )


def _figures(name: str) -> str:
    """Return what the page shows of a set; that it was not measured, where it was not."""
    file = RESULTS / f"evaluation_{name}.json"
    if not file.exists():
        return (
            f"Not measured under this protocol yet: `python -m benchmarks.evaluation run {name}`."
        )
    result = json.loads(file.read_text())
    parts = (_data, _validation, _table, _promises, _new_items, _int8, _carriers, _controls)
    return "\n\n".join(part(result) for part in parts)


def _data(result: dict[str, Any]) -> str:
    data, split = result["data"], result["split"]
    return (
        f"{data['events']:,} actions of {data['members']:,} members on {data['items']:,} items, "
        f"{data['first'][:10]} to {data['last'][:10]}. Fitted on what is before "
        f"{split['fit_until'][:10]}, ranker's labels until {split['train_until'][:10]}, test until "
        f"{split['until'][:10]}; {len(result['seeds'])} seeds, {result['n_trials']} trials on "
        f"validation, the test opened {len(result['test_openings'])} times."
    )


def _validation(result: dict[str, Any]) -> str:
    """Say how the lines did where they were chosen, each with its best penalty."""
    best: dict[str, float] = {}
    for trial in result["trials"]:
        if "l2" in trial["settings"]:
            best[trial["what"]] = max(best.get(trial["what"], 0.0), trial["value"])
    labels = {one["name"]: one["label"] for one in result["variants"]}
    ranked = sorted((name for name in best if name in labels), key=lambda name: -best[name])
    shown = "; ".join(f"{labels[name]} {best[name]:.4f}" for name in ranked[:4])
    return f"The best four on validation, NDCG@10, one seed: {shown}."


def _table(result: dict[str, Any]) -> str:
    """Return all variants: HR@10 and NDCG@10 with every freshness, and what the challenger wins."""
    fresh = result["freshness"]
    names = [one["name"] for one in fresh]
    head = ["", "bytes"]
    head += [f"{metric}, {name}" for metric in ("HR@10", "NDCG@10") for name in names]
    head += ["challenger minus it, NDCG@10", "of its own", "over items too", "AUC"]
    rows = []
    for variant in result["variants"]:
        name = variant["name"]
        minus = result["challenger_minus"].get(name, {"difference": {}, "over_items": {}})
        difference, over_items = (minus[key].get("ndcg10") for key in ("difference", "over_items"))
        own = variant["metrics"]["ndcg10"]["estimate"]
        rows.append(
            [
                _marked(variant, result),
                str(variant.get("bytes_per_member") or ""),
                *(
                    _number(one["variants"][name]["metrics"].get(key))
                    for key in ("hr10", "ndcg10")
                    for one in fresh
                ),
                _interval(difference),
                "" if difference is None else f"{difference['estimate'] / own:+.1%}",
                "" if over_items is None else _bounds(over_items),
                _number(variant["metrics"].get("auc_random"), 3),
            ]
        )
    return markdown(head, rows)


def _marked(variant: dict[str, Any], result: dict[str, Any]) -> str:
    role = {result["baseline"]: ", baseline", result["challenger"]: ", challenger"}
    label = variant["label"] + role.get(variant["name"], "")
    return f"**{label}**" if variant["name"] in role else label


def _promises(result: dict[str, Any]) -> str:
    return "\n".join(
        f"- {'kept' if promise['passed'] else '**not kept**'}: {promise['sentence']}"
        for promise in result["promises"]
    )


def _new_items(result: dict[str, Any]) -> str:
    """Say what is won on items that no fit knew, and what the best decays of a frozen space win."""
    (cohort,) = (
        one
        for one in result["cohorts"]
        if (one["metric"], one["level"]) == ("ndcg10", "first acted on after it")
    )
    minus = cohort["difference"]
    frozen = [name for name in minus if "_in_trained_" not in name and name.startswith("decay_")]
    labels = {one["name"]: one["label"] for one in result["variants"]}
    best = sorted(frozen, key=lambda name: -minus[name]["estimate"])[:1]
    parts = "; ".join(
        f"{labels[name]} {_interval(minus[name])}" for name in (result["challenger"], *best)
    )
    n = sum(one["labels"] for one in result["cohorts"] if one["cohort"] == "Items") // 2
    return (
        f"Items first acted on after the fit, {cohort['labels']:,} of {n:,} labels, NDCG@10 minus "
        f"baseline: {parts}."
    )


def _int8(result: dict[str, Any]) -> str:
    parts = "; ".join(
        f"{row['variant']} {_interval(row['difference'])} at {row['bytes_per_member']} bytes"
        for row in result["storage"]
        if row["dtype"] == "int8"
    )
    return f"Kept as int8, NDCG@10 minus float32: {parts}."


def _carriers(result: dict[str, Any]) -> str:
    shown = [
        f"{row['text'] or row['item']} ({row['adds']:+.4f} of {row['labels']} labels)"
        for row in result["carriers"][:3]
    ]
    found = result["challenger_minus"][result["baseline"]]["difference"]["ndcg10"]["estimate"]
    parts = "; ".join(shown)
    return f"The difference in NDCG@10 is {found:+.4f}; its largest parts are of {parts}."


def _controls(result: dict[str, Any]) -> str:
    failed = [one["name"] for one in result["controls"] if not one["passed"]]
    if failed:
        return f"Controls that failed: {', '.join(failed)}."
    return f"All {len(result['controls'])} controls passed."


def _number(interval: dict[str, float] | None, digits: int = 4) -> str:
    return "" if interval is None else f"{interval['estimate']:.{digits}f}"


def _bounds(interval: dict[str, float]) -> str:
    return f"[{interval['low']:+.4f}, {interval['high']:+.4f}]"


def _interval(interval: dict[str, float] | None) -> str:
    if interval is None:
        return ""
    text = f"{interval['estimate']:+.4f} {_bounds(interval)}"
    clear = interval["low"] > 0 or interval["high"] < 0
    return f"**{text}**" if clear else text


def main() -> None:
    """Run a set, keep a result, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="*", help=f"run NAME, of {', '.join(SETS)}; or keep NAME FILE"
    )
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    match options.what:
        case []:
            PAGE.write_text(page())
            print(f"wrote {PAGE.name}")
        case ["run", name] if name in SETS:
            print(f"kept {run(name, options.seeds).name}")
        case ["keep", name, file]:
            print(f"kept {keep(name, Path(file)).name}")
        case other:
            parser.error(f"expected run NAME, keep NAME FILE or nothing, got {' '.join(other)}")


if __name__ == "__main__":
    main()
