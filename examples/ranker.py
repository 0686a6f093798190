"""A ranker on member activity embeddings, as a team downstream builds it: two files to ten items.

    python examples/ranker.py              # on a small simulated job market
    python examples/ranker.py FOLDER       # on events.parquet and items.parquet, with texts, there

Read it from top to bottom, or run it cell by cell in an editor that knows `# %%`.
"""

# %% Two files: who acted on what and when, and what there is to act on
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from pipelines import workspace
from pipelines.datasets.simulate import Size, simulate

home = Path(tempfile.mkdtemp(prefix="example-"))
if len(sys.argv) > 1:
    source = Path(sys.argv[1])
    events, items = source / "events.parquet", source / "items.parquet"
else:
    size = Size(members=1_000, jobs=300, days=60)
    simulate(home / "market", size, end=datetime(2026, 3, 1, tzinfo=UTC))
    events, items = home / "market" / "events", home / "market" / "items.parquet"


# %% A workspace of them: vectors as of the end of the last day, and of each of the 27 days before
def activity(*arguments: object) -> None:
    """Type a command."""
    subprocess.run([sys.executable, "-m", "pipelines.cli", *map(str, arguments)], check=True)


folder = home / "ranker"
activity("init", folder, "--events", events, "--items", items)
# The workspace's aggregators, one line each: here one is enough, a formula that trains nothing.
(folder / "catalog.py").write_text(
    "from models.spec import GeometricDecay\n\n"
    "AGGREGATORS = (GeometricDecay(version=1, decay=0.8),)\n"
)
activity("run", "--config", folder, "--as-of", "last", "--backfill", 27)
ws = workspace.open(folder)
print(ws)

# %% What is ranked: the items that somebody acted on in the seven days before a day
snapshots = ws.snapshots("member_activity_sequence")
begin, split, end = snapshots[1], snapshots[18], snapshots[-1]

actions = ws.activity().to_pandas().sort_values("event_timestamp")
actions["day"] = actions.event_timestamp.dt.floor("D")
recent = actions[actions.day >= begin - timedelta(days=7)]
by_day = recent.pivot_table("action", index="day", columns="item_id", aggfunc="count")
by_day = by_day.reindex(pd.date_range(by_day.index[0], end, name="day")).fillna(0)
active = by_day.rolling(7).sum().shift(1).melt(ignore_index=False, value_name="popularity")
active = active[active.popularity > 0].reset_index()
active["popularity"] = np.log1p(active.popularity)

# %% Labels: among them, the item that a member then acted on well, for the first time
good = [name for name, action in ws.config.actions.items() if action.sign == "positive"]
firsts = actions.drop_duplicates(["member_id", "item_id"])
wanted = firsts[firsts.action.isin(good)].rename(columns={"item_id": "wanted"})
seen_at = firsts.set_index(["member_id", "item_id"]).event_timestamp.rename("seen_at")


def labels(first: datetime, last: datetime, n: int) -> pd.DataFrame:
    """Draw n wanted items of a period, each with the other active items new to its member."""
    drawn = wanted[(wanted.event_timestamp >= first) & (wanted.event_timestamp < last)]
    drawn = drawn.sample(min(n, len(drawn)), random_state=0).reset_index(names="label_id")
    drawn = drawn[["label_id", "member_id", "wanted", "event_timestamp", "day"]]
    pairs = drawn.merge(active, on="day").join(seen_at, on=["member_id", "item_id"])
    pairs = pairs[~(pairs.seen_at < pairs.event_timestamp)].drop(columns=["seen_at", "day"])
    pairs["label"] = pairs.item_id == pairs.pop("wanted")
    return pairs


train, test = labels(begin, split, 1_000), labels(split, end, 300)
train = train[train.label | (np.random.default_rng(0).random(len(train)) < 0.1)]  # enough of others

# %% Features: what could be read from the feature store at each label's time


def features(of: pd.DataFrame) -> pd.DataFrame:
    """Join labels with what was known then; leave out items without a vector, wanted ones too."""
    joined = ws.join(of, "decay").to_pandas()  # says which labels got nothing, and what mends it
    joined = joined[joined.embedding.notna()]
    return joined[joined.groupby("label_id").label.transform("any")]


train, test = features(train), features(test)
match = [name for name in train.columns if name.startswith(("cosine", "dot"))]


# %% A small ranker, judged on later days than those that it learned from
def fitted(columns: list[str]) -> Pipeline:
    """Fit a logistic regression to these columns."""
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(train[columns], train.label)


def judged(scores: np.ndarray) -> tuple[float, float]:
    """Return how often the wanted item is among the first ten, and its mean reciprocal rank."""
    ranks = pd.Series(scores, test.index).groupby(test.label_id).rank(ascending=False)[test.label]
    return (ranks <= 10).mean(), (1 / ranks).mean()


columns = {"popularity": ["popularity"], "embeddings": match, "both": [*match, "popularity"]}
rankers = {name: fitted(columns[name]) for name in columns}
n, each = test.label.sum(), len(test) / test.label.sum()
print(f"\n{n} items wanted from {split:%Y-%m-%d} on, each among {each:.0f} that were active:")
for name, ranker in rankers.items():
    hits, reciprocal = judged(ranker.decision_function(test[columns[name]]))
    print(f"  {name:<12}HR@10 {hits:.3f}  MRR {reciprocal:.3f}")

# %% Ten items for one member, with what the online store knows now
sequences = ws.sequences().to_pandas()
member = sequences.member_id[sequences.n_actions.idxmax()]
known = actions.item_id[actions.member_id == member]
offered = active[(active.day == end) & ~active.item_id.isin(known)].set_index("item_id")
online = ws.store.get_online_features(
    features=ws.service("decay"),
    entity_rows=[{"member_id": member, "item_id": item} for item in offered.index],
).to_df()
online = online.join(offered.popularity, on="item_id").dropna(subset="embedding")
online["score"] = rankers["both"].decision_function(online[columns["both"]])

of_items = ws.config.items
titles = pd.read_parquet(items).astype({of_items.item_id: online.item_id.dtype})
titles = titles.drop_duplicates(of_items.item_id).set_index(of_items.item_id)[of_items.text[0]]
print(f"\nTen items for member {member}:")
for item, score in online.nlargest(10, "score")[["item_id", "score"]].itertuples(index=False):
    print(f"  {score:6.2f}  {titles[item]}")
