"""Both stages of the recommender on real data: `activity evaluate recommender`, and its JSON.

    python -m benchmarks.recommender NAME          # ifdb, xwines, movietweetings

A set's workspace is workspaces/NAME_recommender, made where it is missing. Real data lies in the
folder that ACTIVITY_TEST_DATA names. The test is opened once a run.
"""

import argparse
import json
from pathlib import Path

from benchmarks.evaluation import RESULTS, SETS, activity, workspace_of

CATALOGUE = """from models.candidates.spec import NearestToMember, Neighbours, Popular
from models.items.spec import CoActions, Trained
from models.rankers.lines import BoostedTrees, Linear, WideAndDeep
from models.spec import LearnedDecay

LAYER = LearnedDecay(
    version=1, items="trained_v1", ranks="positive", projected=False, share="all", decays=2
)
ITEM_ENCODERS = (CoActions(version=1), Trained(version=1, layer=LAYER))
AGGREGATORS = (LAYER,)
CANDIDATES = (
    Popular(version=1, days=7),
    Popular(name="month", version=1, days=28),
    Popular(name="new", version=1, newest=True, days=28),
    Neighbours(of="co_actions_v1", version=1),
    Neighbours(of="trained_v1", version=1),
    NearestToMember(aggregator="learned_decay_v1", version=1, count=300),
)
READS = dict(version=1, aggregators=("learned_decay_v1",))
RANKERS = (WideAndDeep(**READS), BoostedTrees(**READS), Linear(**READS))
"""


def run(name: str, seeds: int, *more: str) -> Path:
    """Measure one set; return the file of its figures in benchmarks/results."""
    from transformations.config import load_config

    own = f"{name}_recommender"
    SETS[own] = SETS[name]
    config = workspace_of(own, name, CATALOGUE)
    activity("evaluate", "recommender", "--config", str(config), "--seeds", str(seeds), *more)
    result = json.loads((load_config(config).layout.evaluation / "recommender.json").read_text())
    place = RESULTS / f"recommender_{name}.json"
    place.write_text(json.dumps(result, indent=1) + "\n")
    return place


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", choices=[name for name in SETS if name != "simulated"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("more", nargs=argparse.REMAINDER, help="More options of activity evaluate.")
    given = parser.parse_args()
    print(run(given.name, given.seeds, *given.more))
