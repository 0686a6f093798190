"""A realistic result of an evaluation: written by hand, its curves and points sampled."""

from typing import Any

import numpy as np

METRICS = (
    ("hr10_recent", "HR@10, items active in 7 days", 4),
    ("hr10", "HR@10, full catalogue", 4),
    ("ndcg10", "NDCG@10", 4),
    ("map", "MAP", 4),
    ("mrr", "MRR", 4),
    ("auc_dismiss", "AUC against DISMISS", 4),
    ("auc_random", "AUC against a random same-day item", 4),
)
VARIANTS = (
    # name, label, kind, vectors, members per second, difference to decay in each metric
    ("popular", "Popular in the last 7 days", "reference", 0, None, -0.021),
    ("cooccurrence", "Decayed co-occurrence, last 10", "reference", 0, None, -0.0021),
    ("none", "No activity", "reference", 0, None, -0.0148),
    ("average", "Average, per action", "hand", 3, 412_000.0, -0.0031),
    ("decay", "Decay 0.8, per action", "hand", 3, 398_000.0, 0.0),
    ("learned_decay", "Learned decay", "learned", 1, 287_000.0, 0.0063),
    ("attention", "Attention pool", "learned", 1, 121_000.0, 0.0041),
    ("cnn", "CNN, next action with random negatives", "learned", 1, 84_000.0, -0.0052),
)
COHORTS = {
    "History length": ("1 to 3 actions", "4 to 7", "8 to 15", "16 to 32"),
    "Days since the last action": ("under 1", "1 to 7", "7 to 28"),
    "Item popularity": ("head", "middle", "tail", "content only"),
    "Members": ("new", "known"),
}
TITLES = (
    "The Grand Budapest Hotel (2014) · Adventure, Comedy, Crime",
    "Interstellar (2014) · Adventure, Drama, Sci-Fi",
    "Mad Max: Fury Road (2015) · Action, Adventure, Sci-Fi",
    "Le fabuleux destin d'Amélie Poulain (2001) · Comedy, Romance",
    "千と千尋の神隠し (2001) · Animation, Adventure, Family",
    "The Hobbit: The Battle of the Five Armies (2014) · Adventure, Fantasy",
    "Whiplash (2014) · Drama, Music",
    "Gone Girl (2014) · Drama, Mystery, Thriller",
    "Boyhood (2014) · Drama",
    "The Imitation Game (2014) · Biography, Drama, Thriller",
    "Nightcrawler (2014) · Crime, Drama, Thriller",
    "Birdman or (The Unexpected Virtue of Ignorance) (2014) · Comedy, Drama",
    "Frozen (2013) · Animation, Adventure, Comedy",
    "Gravity (2013) · Drama, Sci-Fi, Thriller",
    "12 Years a Slave (2013) · Biography, Drama, History",
    "The Wolf of Wall Street (2013) · Biography, Comedy, Crime",
)
CATEGORIES = ("Drama", "Comedy", "Action", "Horror", "Documentary", "Animation", "Romance", "other")


def interval(estimate: float, half: float = 0.004) -> dict[str, float]:
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half}


def realistic_result() -> dict[str, Any]:
    """Every part, as JSON values."""
    rng = np.random.default_rng(3)
    return {
        "title": "One learned vector against three decayed averages",
        "created": "2026-11-25T17:02:00Z",
        "command": "activity evaluate --config movietweetings --seeds 6",
        "data": {
            "name": "MovieTweetings",
            "members": 71_707,
            "items": 38_018,
            "events": 921_398,
            "first": "2013-02-28T14:38:27Z",
            "last": "2021-05-14T06:24:51Z",
        },
        "split": {
            "fit_until": "2018-01-20",
            "train_until": "2019-09-17",
            "until": "2021-05-15",
        },
        "seeds": [0, 1, 2, 3, 4, 5],
        "baseline": "decay",
        "challenger": "learned_decay",
        "n_trials": 41,
        "protocol": [
            "Global temporal split, 60 : 20 : 20 of the time.",
            "Item encoder, aggregators and ranker are trained on the train period only.",
            "Each label's features are fetched through the variant's feature service.",
            "Intervals: paired bootstrap over members and seeds, 2,000 draws.",
        ],
        "metrics": [{"key": k, "label": label, "digits": d} for k, label, d in METRICS],
        "variants": [_variant(rng, *variant) for variant in VARIANTS],
        "promises": [
            {
                "name": "HR@10 over items active in the last 7 days",
                "sentence": "Required CI lower bound > 0, got +0.0063 [+0.0022, +0.0108].",
                "passed": True,
            },
            {
                "name": "A third of the bytes",
                "sentence": "Required at most 33.4 %, got 256 of 768 bytes, 33.3 %.",
                "passed": True,
            },
            {
                "name": "NDCG@10 of co-occurrence",
                "sentence": "Required CI upper bound > 0, got -0.0012 [-0.0031, -0.0004].",
                "passed": False,
            },
        ],
        "cohorts": [
            {
                "metric": metric,
                "cohort": cohort,
                "level": level,
                "labels": int(rng.integers(300, 40_000)),
                "difference": {
                    name: interval(delta + float(rng.normal(0, 0.004)), 0.006)
                    for name, _, _, vectors, _, delta in VARIANTS
                    if vectors and name != "decay"
                },
            }
            for metric in ("hr10_recent", "ndcg10", "auc_random")
            for cohort, levels in COHORTS.items()
            for level in levels
        ],
        "controls": [
            {
                "name": "Shuffled sequences",
                "sentence": "Each sequence was shuffled before it was embedded.",
                "expected": "decay loses, average does not change",
                "got": "decay -0.0044, average 0.0000",
                "passed": True,
            },
            {
                "name": "Permuted labels",
                "sentence": "Positive and negative labels were permuted.",
                "expected": "AUC 0.5",
                "got": "0.5012 [0.4969, 0.5054]",
                "passed": True,
            },
            {
                "name": "Leaky variant",
                "sentence": "A planted variant sees the day after the label.",
                "expected": "it is refused",
                "got": "it was not refused",
                "passed": False,
            },
        ],
        "freshness": [_freshness(name) for name in ("live", "30m", "1d")],
        "challenger_minus": {
            name: {
                "difference": {"ndcg10": interval(0.0063 - delta, 0.004)},
                "over_items": {"ndcg10": interval(0.0063 - delta, 0.009)},
            }
            for name, _, _, _, _, delta in VARIANTS
            if name != "learned_decay"
        },
        "carriers": [
            {"item": 1_000 + n, "text": text, "labels": 40 - n, "adds": 0.0004 * (5 - n)}
            for n, text in enumerate([*TITLES[:9], None])
        ],
        "trials": [
            {
                "period": "validation",
                "what": "decayed",
                "settings": {"r": 0.8, "space": "tfidf_svd_v1"},
                "metric": "ndcg10",
                "value": 0.0914,
                "made_at": "2026-11-25T16:02:00Z",
            }
        ],
        "test_openings": [{"at": "2026-11-25T17:00:00Z", "what": "learned_decay against decay"}],
        "storage": [
            {
                "variant": name,
                "dtype": dtype,
                "bytes_per_member": vectors * 64 * size,
                "ndcg10": interval(0.0914 + delta, 0.003),
                "difference": None if size == 4 else interval(delta, 0.0008),
            }
            for name, vectors in (("decay", 3), ("learned_decay", 1))
            for dtype, size, delta in (
                ("float32", 4, 0.0),
                ("float16", 2, -0.00001),
                ("int8", 1, -0.0011),
            )
        ],
        "cold_start": [
            {
                "members": "1 action" if n == 1 else f"{n} actions",
                "labels": 5_120 // (n + 1),
                "approach": approach,
                "metrics": {key: interval(0.03 + 0.01 * n + gain) for key in ("hr10", "ndcg10")},
            }
            for n in range(4)
            for approach, gain in (
                ("learned default vector", 0.002),
                ("zeros", 0.0),
                ("popularity", 0.004),
            )
        ],
        "decay_grid": [
            {
                "decay": r / 20,
                "metric": metric,
                "value": 0.09 - 0.05 * (r / 20 - best) ** 2,
                "action": action,
                "chosen": r == 16 and action is None,
            }
            for metric in ("ndcg10", "hr10_recent")
            for action, best in ((None, 0.8), ("APPLY", 0.85), ("DISMISS", 0.6))
            for r in range(8, 20, 2)
        ],
        "training": {
            name: _training(rng, epochs)
            for name, epochs in (("learned_decay", 14), ("attention", 11), ("cnn", 9))
        },
        "distributions": {
            "as_of": "2021-05-15",
            "sequence_length": {
                "edges": [x + 0.5 for x in range(33)],
                "counts": [int(9_000 / n**1.2) for n in range(1, 32)] + [1_900],
            },
            "actions": {"APPLY": 18_204, "SAVE": 33_871, "DISMISS": 9_113},
        },
        "map": _map(rng),
        "members": [_member(rng, member) for member in range(5)],
    }


def _freshness(name: str) -> dict[str, Any]:
    older = {"live": 0.0, "30m": 0.01, "1d": 0.012}[name]

    def row(delta: float) -> dict[str, Any]:
        metrics = {key: interval(0.09 + delta - older) for key, _, _ in METRICS}
        nothing = {key: interval(-older, 0.006) for key, _, _ in METRICS}
        return {
            "metrics": metrics,
            "minus_baseline": {"difference": nothing, "over_items": nothing},
            "minus_first": {"difference": nothing, "over_items": nothing},
        }

    return {
        "name": name,
        "seeds": 3 if name == "live" else 1,
        "variants": {variant: row(delta) for variant, _, _, _, _, delta in VARIANTS},
    }


def _variant(
    rng: np.random.Generator,
    name: str,
    label: str,
    kind: str,
    vectors: int,
    speed: float | None,
    delta: float,
) -> dict[str, Any]:
    keys = [key for key, _, _ in METRICS if name != "popular" or not key.startswith("auc")]
    noise = dict.fromkeys(keys, 0.0)
    if name != "decay":
        noise = {key: float(rng.normal(0, 0.0015)) for key in keys}
    base = {key: 0.7 if key.startswith("auc") else 0.09 for key in keys}
    return {
        "name": name,
        "label": label,
        "kind": kind,
        "metrics": {key: interval(base[key] + delta + noise[key], 0.006) for key in keys},
        "difference": {}
        if name == "decay"
        else {key: interval(delta + noise[key], 0.0042) for key in keys},
        "over_items": {}
        if name == "decay"
        else {key: interval(delta + noise[key], 0.008) for key in keys},
        "bytes_per_member": vectors * 256 or None,
        "vectors": vectors or None,
        "dims": 64 if vectors else None,
        "members_per_second": speed,
    }


def _training(rng: np.random.Generator, epochs: int) -> dict[str, Any]:
    steps = np.arange(epochs)
    loss = 5.2 + 1.1 * np.exp(-steps / 3) + rng.normal(0, 0.01, epochs)
    held = 5.4 + 1.0 * np.exp(-steps / 3) + 0.012 * steps
    metric = 0.093 - 0.04 * np.exp(-steps / 2.5)
    return {
        "epochs": list(range(1, epochs + 1)),
        "curves": {
            "loss": loss.tolist(),
            "val_loss": held.tolist(),
            "val_ndcg10": [None, *metric.tolist()[1:]],
        },
        "best_epoch": int(held.argmin()) + 1,
        "seconds": 74.0,
        "objective": "next_item",
    }


def _map(rng: np.random.Generator) -> dict[str, Any]:
    kind = rng.integers(0, len(CATEGORIES), 1_500)
    centre = rng.normal(0, 2.4, (len(CATEGORIES), 2))
    points = centre[kind] + rng.normal(0, 1, (len(kind), 2))
    return {
        "variant": "learned_decay",
        "vector": "activity_embedding",
        "method": "PCA",
        "explained": 0.214,
        "x": points[:, 0].round(3).tolist(),
        "y": points[:, 1].round(3).tolist(),
        "category": [CATEGORIES[k] for k in kind],
    }


def _member(rng: np.random.Generator, member: int) -> dict[str, Any]:
    def near(variant: str, vector: str) -> dict[str, Any]:
        items = rng.permutation(len(TITLES))[:6]
        return {
            "variant": variant,
            "vector": vector,
            "items": [
                {"item": int(i), "text": TITLES[i], "similarity": 0.91 - 0.05 * nth}
                for nth, i in enumerate(items)
            ],
        }

    nearest = [
        near(name, f"{action}_embedding")
        for name in ("average", "decay")
        for action in ("apply", "save", "dismiss")
    ]
    nearest[2]["items"] = []
    return {
        "member_id": 1_000 + member,
        "actions": [
            {
                "when": f"2021-05-{14 - n:02d}T{(7 * n) % 24:02d}:15:00Z",
                "action": ("APPLY", "SAVE", "DISMISS")[n % 3],
                "item": int(i),
                "text": TITLES[i],
            }
            for n, i in enumerate(rng.permutation(len(TITLES))[:8])
        ],
        "nearest": nearest
        + [near(name, "activity_embedding") for name in ("learned_decay", "attention", "cnn")],
    }
