"""`layout:` and `engine:` of `activity.yaml`: how many buckets tables lie in, who builds them."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_BUCKETS = 65_536
ANY_CORE = "local[*]"
"""Spark inside this process, on all cores: to try it."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LayoutSettings(_Strict):
    """How the rows of members are divided into files."""

    buckets: int = Field(default=1, ge=1, le=MOST_BUCKETS)
    """Into how many parts, by member. 1: as without buckets."""


class EngineSettings(_Strict):
    """Who builds the tables of members, bucket by bucket."""

    kind: Literal["local", "spark"] = "local"
    """`local`: processes of this machine. `spark`: the tasks of a Spark cluster."""
    master: str = ANY_CORE
    """Of Spark, the address of its master: spark://host:7077, yarn, k8s://…, local[2]."""
    workers: int | None = Field(default=None, ge=1)
    """Of `local`, how many processes. Default: one per core, at most one per bucket."""
    threads: int = Field(default=1, ge=1)
    """Threads of one task."""
    memory: str = Field(default="1GB", pattern=r"^\d+(\.\d+)?\s*(MB|GB|MiB|GiB)$")
    """Memory of one task's queries, beside that of Python; what is larger is spilled to disk."""
    conf: dict[str, str] = {}
    """Of Spark, more of its settings, as spark.executor.memory: 4g."""

    @model_validator(mode="after")
    def _settings_of_spark(self) -> Self:
        if self.kind != "spark" and (self.master != ANY_CORE or self.conf):
            raise ValueError(
                "`master` and `conf` belong to `kind: spark`; leave them out, or say so"
            )
        return self
