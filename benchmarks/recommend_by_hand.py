"""The other side of benchmarks/recommend.py: what a user would write from Feast's docs.

FastAPI, the same features of 500 items by `get_online_features(...).to_dict()`, and a Keras model
of the ranker's size. The candidates are given, so that only features and scoring are compared.
"""

import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.recommend import ITEMS
from models.backend import keras
from models.lines import ranker_lines
from models.rankers.package import load
from models.rankers.reading import Needs
from operations.rankers import newest
from serving import publish
from transformations.config import load_config
from transformations.duck import connect, parquet


class Asked(BaseModel):
    """A request."""

    member_id: int
    n: int = 20


def application(folder: Path) -> FastAPI:
    """Return the service of a workspace's newest ranker, written by hand."""
    config = load_config(folder)
    store = publish.open_store(config)
    (line, *_) = newest(config, ranker_lines(config))
    needs = Needs.read(load(config, line).manifest["needs"])
    features = [*needs.of_members(config.rules), *needs.of_items()]
    with connect(config) as con:
        query = f"select distinct item_id from {parquet([config.layout.staged_items])}"
        items = [item for (item,) in con.execute(f"{query} limit {ITEMS}").fetchall()]
    model: Any = None
    app = FastAPI()

    @app.post("/recommend")
    def recommend(asked: Asked) -> dict[str, Any]:
        nonlocal model
        rows = [{"member_id": asked.member_id, "item_id": item} for item in items]
        read = store.get_online_features(features=features, entity_rows=rows).to_dict()
        columns = []
        for name, values in read.items():
            first = next((value for value in values if value is not None), 0.0)
            if isinstance(first, list):
                if first and isinstance(first[0], float) and len(first) == config.dim:
                    zeros = [0.0] * config.dim
                    columns.append(np.array([value or zeros for value in values], np.float32))
            elif isinstance(first, int | float) and not name.endswith("_id"):
                numbers = [0.0 if value is None else value for value in values]
                columns.append(np.array(numbers, np.float32)[:, None])
        inputs = np.concatenate(columns, axis=1)
        if model is None:
            model = keras.Sequential(
                [
                    keras.layers.Dense(64, "relu"),
                    keras.layers.Dense(32, "relu"),
                    keras.layers.Dense(3, "sigmoid"),
                ]
            )
        scores = model.predict(inputs, verbose=0)[:, 0]
        best = np.argsort(-scores)[: asked.n]
        return {"items": [{"item_id": items[row], "score": float(scores[row])} for row in best]}

    return app


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = application(Path(sys.argv[1]))
        print(f"http://127.0.0.1:{listening.getsockname()[1]}/recommend", flush=True)
        config = uvicorn.Config(app, log_level="warning")
        uvicorn.Server(config).run(sockets=[listening])
