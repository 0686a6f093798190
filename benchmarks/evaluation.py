"""docs/evaluation.md, generated from results of `activity evaluate`: no number is typed by hand.

`python -m benchmarks.evaluation keep NAME RESULT` copies what the page needs from a result.json
to benchmarks/results; `python -m benchmarks.evaluation` writes the page.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "evaluation.md"
TEXT = HERE / "evaluation.md.txt"
LEFT_OUT = ("map", "members", "training", "distributions")


def keep(name: str, file: Path) -> Path:
    """Copy a result without the parts that only the HTML report shows; return the file."""
    result = json.loads(file.read_text())
    kept = {key: value for key, value in result.items() if key not in LEFT_OUT}
    place = RESULTS / f"evaluation_{name}.json"
    place.write_text(json.dumps(kept, indent=1) + "\n")
    return place


def write_page() -> Path:
    """Insert the tables into the text of the page."""
    text = TEXT.read_text()
    for file in sorted(RESULTS.glob("evaluation_*.json")):
        name = file.stem.removeprefix("evaluation_")
        result = json.loads(file.read_text())
        for section, make in SECTIONS.items():
            text = text.replace(f"{{{{ {name}.{section} }}}}", make(result))
    left = [line for line in text.splitlines() if "{{" in line]
    if left:
        raise SystemExit(
            f"expected a result for {left}; first: python -m benchmarks.evaluation keep"
        )
    PAGE.write_text(text)
    return PAGE


def _data(result: dict[str, Any]) -> str:
    data, split = result["data"], result["split"]
    return (
        f"{data['events']:,} actions on items with a vector, {data['members']:,} members, "
        f"{data['items']:,} items, {data['first'][:10]} to {data['last'][:10]}. Train until "
        f"{split['train_until'][:10]}, validation until {split['validation_until'][:10]}, test "
        f"until {split['test_until'][:10]}. {len(result['seeds'])} seeds. Command: "
        f"`{result['command']}`."
    )


def _protocol(result: dict[str, Any]) -> str:
    return "\n".join(f"- {sentence}" for sentence in result["protocol"])


def _values(result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    head = ["variant", "bytes", *(metric["label"] for metric in metrics)]
    rows = [
        [
            variant["label"],
            "" if variant["bytes_per_member"] is None else str(variant["bytes_per_member"]),
            *(_number(variant["metrics"].get(metric["key"])) for metric in metrics),
        ]
        for variant in map(_whole, result["variants"])
    ]
    return _table(head, rows)


def _differences(result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    rows = [
        [variant["label"], *(_interval(variant["difference"].get(m["key"])) for m in metrics)]
        for variant in result["variants"]
        if variant["difference"]
    ]
    return _table([f"minus {_baseline(result)}", *(m["label"] for m in metrics)], rows)


def _baseline(result: dict[str, Any]) -> str:
    return next(v["label"] for v in result["variants"] if v["name"] == result["baseline"])


def _promises(result: dict[str, Any]) -> str:
    return "\n".join(
        f"- {'kept' if promise['passed'] else '**not kept**'}: {promise['sentence']}"
        for promise in result["promises"]
    )


def _controls(result: dict[str, Any]) -> str:
    rows = [
        [
            control["name"],
            control["expected"],
            control["got"],
            "yes" if control["passed"] else "NO",
        ]
        for control in result["controls"]
    ]
    return _table(["control", "expected", "got", "passed"], rows)


def _storage(result: dict[str, Any]) -> str:
    rows = [
        [
            row["variant"],
            row["dtype"],
            str(row["bytes_per_member"]),
            _number(row["ndcg10"]),
            _interval(row["difference"]),
        ]
        for row in result["storage"]
    ]
    return _table(["variant", "dtype", "bytes per member", "NDCG@10", "minus float32"], rows)


def _cold(result: dict[str, Any]) -> str:
    labels = {metric["key"]: metric["label"] for metric in result["metrics"]}
    names = list(result["cold_start"][0]["metrics"]) if result["cold_start"] else []
    rows = [
        [
            way["members"],
            f"{way['labels']:,}",
            way["approach"],
            *(_number(way["metrics"].get(name)) for name in names),
        ]
        for way in result["cold_start"]
    ]
    return _table(["members with", "labels", "features", *(labels[name] for name in names)], rows)


def _grid(result: dict[str, Any]) -> str:
    rows = [
        [f"{point['decay']:g}", f"{point['value']:.4f}", "chosen" if point["chosen"] else ""]
        for point in result["decay_grid"]
    ]
    return _table(["r", "NDCG@10 on validation", ""], rows)


def _cohorts(result: dict[str, Any]) -> str:
    labels = {metric["key"]: metric["label"] for metric in result["metrics"]}
    rows = [
        [
            row["cohort"],
            row["level"],
            f"{row['labels']:,}",
            _interval(row["difference"][result["challenger"]]),
        ]
        for row in result["cohorts"]
        if row["metric"] == "auc_random"
    ]
    return _table(["cohort", "", "labels", labels["auc_random"]], rows)


def _command(result: dict[str, Any]) -> str:
    return f"`{result['command']}`"


SECTIONS = {
    "command": _command,
    "data": _data,
    "protocol": _protocol,
    "values": _values,
    "differences": _differences,
    "promises": _promises,
    "controls": _controls,
    "storage": _storage,
    "cold": _cold,
    "grid": _grid,
    "cohorts": _cohorts,
}


def _whole(variant: dict[str, Any]) -> dict[str, Any]:
    return {"bytes_per_member": None} | variant


def _number(interval: dict[str, float] | None) -> str:
    return "" if interval is None else f"{interval['estimate']:.4f}"


def _interval(interval: dict[str, float] | None) -> str:
    if interval is None:
        return ""
    text = f"{interval['estimate']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}]"
    clear = interval["low"] > 0 or interval["high"] < 0
    return f"**{text}**" if clear else text


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Keep a result, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("keep", nargs="*", help="keep NAME FILE")
    given = parser.parse_args().keep
    if given:
        _, name, file = given
        print(f"kept {keep(name, Path(file)).name}")
    else:
        print(f"wrote {write_page().name}")


if __name__ == "__main__":
    main()
