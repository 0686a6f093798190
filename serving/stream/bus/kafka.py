"""Kafka as a bus: messages are keyed by member; a group's offsets are committed after the write.

A worker that joins or dies moves partitions. The next owner of a partition begins at its committed
offset: what was written but not yet committed is delivered twice, which the fold makes harmless.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from serving.answers import refusal
from serving.stream.bus.protocol import DEAD, DEAD_LONGEST, BusGoneError, Message

logger = logging.getLogger(__name__)

WAIT = 0.5
TIMEOUT = 10.0
ALONE_BY = 60.0

SETTINGS = {
    "password": "&security.protocol=SASL_SSL&sasl.mechanism=…&sasl.username=…&sasl.password=…",
    "certificate": "&ssl.ca.location=FILE",
    "tls": "&security.protocol=SSL where the broker asks for TLS, else not",
    "rights": "the user's rights: it reads the topic, and writes TOPIC.dead",
    "address": "the settings after ?, host and port, and whether a broker runs",
}

Headers = dict[str, str | bytes | None]

# Errors of a commit after its partition has moved: the new owner reads those messages again.
MOVED = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError._STATE,
    KafkaError._NO_OFFSET,
)


class KafkaBus:
    """One topic and one consumer group."""

    def __init__(
        self, brokers: str, topic: str, group: str, options: Mapping[str, str] | None = None
    ) -> None:
        self._topic = topic
        self._consuming = {"bootstrap.servers": brokers, **(options or {})}
        self._producing = {
            key: value
            for key, value in self._consuming.items()
            if key.startswith(("bootstrap.", "security.", "sasl.", "ssl.", "client."))
        }
        self._group = group
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None

    def ask(self) -> None:
        """Ask for the topic's description."""
        told: list[Any] = []
        try:
            asked = {"group.id": self._group, "error_cb": told.append, "logger": logger}
            client = Consumer({**asked, **self._consuming})
            try:
                client.list_topics(self._topic, TIMEOUT)
            finally:
                client.close()
        except KafkaException as error:
            # The first thing that a broker said tells more than that the time is up.
            raise refusal("Kafka", told[0] if told else error.args[0], SETTINGS) from None

    def read(self, limit: int, linger: float) -> list[Message]:
        """Return up to `limit` messages; wait `linger` seconds to reach that number."""
        try:
            consumer = self._subscribed()
            found = consumer.consume(1, WAIT)
            if found and limit > 1:
                found += consumer.consume(limit - 1, max(linger, 0.001))
            return [_message(message) for message in found if not self._failed(message)]
        except KafkaException as error:
            raise self._gone(error) from error

    def done(self, messages: Sequence[Message]) -> None:
        """Commit the offsets behind these messages."""
        if not messages:
            return
        ends: dict[int, int] = {}
        for message in messages:
            partition, offset = message.position
            ends[partition] = max(ends.get(partition, 0), offset + 1)
        offsets = [TopicPartition(self._topic, partition, end) for partition, end in ends.items()]
        try:
            self._subscribed().commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() not in MOVED:
                raise self._gone(error) from error
            logger.warning("Kafka, topic %s: partitions moved before a commit", self._topic)

    def refuse(self, messages: Sequence[tuple[Message, str]]) -> None:
        """Produce to `<topic>.dead`, with the reason and the position as headers."""
        rows: list[tuple[bytes, Headers]] = []
        for message, reason in messages:
            position = "{}:{}".format(*message.position)
            value = message.value[:DEAD_LONGEST]
            rows.append((value, {"reason": reason.encode(), "place": position.encode()}))
        self._produce(self._topic + DEAD, [(None, value, headers) for value, headers in rows])

    def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Produce, each message to the partition of its key."""
        self._produce(self._topic, [(key, value, {}) for key, value in messages])

    def forget(self, is_theirs: Callable[[bytes], bool]) -> dict[str, int] | None:  # noqa: ARG002
        """Return None: Kafka deletes no single message, but what is older than its retention."""
        return None

    def rewind(self, timestamp: datetime) -> None:
        """Commit, for every partition, the offset of the first message at `timestamp` or later.

        A partition for which the broker names no offset is read from its beginning: folding too
        much again is harmless. This consumer must be the only one in its group.
        """
        self.reset()
        start = int(timestamp.timestamp() * 1000)
        given: list[TopicPartition] = []
        failed: list[KafkaException] = []

        def assigned(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            # An exception raised here would leave `poll` as an object that no `except` catches.
            try:
                given[:] = self._first_of(consumer, partitions, start)
                consumer.assign(given)
            except KafkaException as error:
                failed.append(error)

        try:
            consumer = self._consumer = self._client()
            consumer.subscribe([self._topic], on_assign=assigned)
            deadline = time.monotonic() + ALONE_BY
            while not given:
                if time.monotonic() > deadline:
                    raise BusGoneError(f"Kafka, topic {self._topic}: no partition was assigned")
                message = consumer.poll(0.1)  # redelivered later: nothing is committed yet
                if message is not None:
                    self._failed(message)
                if failed:
                    raise failed[0]
            every = consumer.list_topics(self._topic, TIMEOUT).topics[self._topic].partitions
            if len(given) < len(every):
                raise BusGoneError(
                    f"Kafka, group {self._group}: {len(every) - len(given)} of {len(every)} "
                    "partitions belong to other workers; stop them before a rebuild"
                )
            consumer.commit(offsets=given, asynchronous=False)
            # Leave the group: this consumer would rewind again at every rebalance.
            self.reset()
        except KafkaException as error:
            raise self._gone(error) from error

    def reset(self) -> None:
        """Leave the group; the next read joins it again, at the committed offsets."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def close(self) -> None:
        """Leave the group and flush the producer."""
        self.reset()
        if self._producer is not None:
            self._producer.flush(TIMEOUT)

    def _client(self) -> Consumer:
        return Consumer(
            {
                "group.id": self._group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                # Backpressure is not reading; this bounds what librdkafka fetches ahead.
                "queued.max.messages.kbytes": 16_384,
                "logger": logger,
                **self._consuming,
            }
        )

    def _first_of(
        self, consumer: Consumer, partitions: Sequence[TopicPartition], start: int
    ) -> list[TopicPartition]:
        """Return each partition's first offset at `start` (milliseconds) or later."""
        asked = [TopicPartition(self._topic, part.partition, start) for part in partitions]
        found = consumer.offsets_for_times(asked, timeout=TIMEOUT)
        for part in found:
            if part.offset < 0:
                part.offset, _ = consumer.get_watermark_offsets(part, timeout=TIMEOUT)
        return [TopicPartition(self._topic, part.partition, part.offset) for part in found]

    def _subscribed(self) -> Consumer:
        if self._consumer is None:
            self._consumer = self._client()
            self._consumer.subscribe([self._topic])
        return self._consumer

    def _produce(self, topic: str, rows: Sequence[tuple[str | None, bytes, Headers]]) -> None:
        if self._producer is None:
            self._producer = Producer({"linger.ms": 5, "acks": "all", "logger": logger,
                                       **self._producing})  # fmt: skip
        failed: list[Any] = []

        def delivered(error: Any, _: Any) -> None:
            if error is not None:
                failed.append(error)

        try:
            for key, value, headers in rows:
                while True:
                    try:
                        self._producer.produce(
                            topic, value, key, on_delivery=delivered, headers=headers
                        )
                        break
                    except BufferError:
                        self._producer.poll(0.1)
            left = self._producer.flush(TIMEOUT)
        except KafkaException as error:
            raise self._gone(error) from error
        if left or failed:
            raise BusGoneError(
                f"Kafka, topic {topic}: {left} messages not delivered after {TIMEOUT:.0f} s, "
                f"{len(failed)} refused {failed[:1]}"
            )

    def _failed(self, message: Any) -> bool:
        """Whether this is an error instead of a message; transient errors are logged."""
        error = message.error()
        if error is None:
            return False
        if error.fatal():
            raise KafkaException(error)
        if error.code() != KafkaError._PARTITION_EOF:
            logger.warning("Kafka, topic %s: %s", self._topic, error)
        return True

    def _gone(self, error: KafkaException) -> BusGoneError:
        return BusGoneError(f"Kafka, topic {self._topic}: {error.args[0]}")


def _message(message: Any) -> Message:
    _, milliseconds = message.timestamp()
    return Message(
        message.value() or b"", milliseconds * 1000, (message.partition(), message.offset())
    )
