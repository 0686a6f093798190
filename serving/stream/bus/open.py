"""The table of buses, and the one that a URL names.

    redis://host:6379/0?stream=activity&group=activity-stream
    kafka://host:9092,host2:9092/activity?group=activity-stream&session.timeout.ms=10000

Further keys of a Kafka URL are librdkafka's own settings.
"""

from collections.abc import Callable
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from serving.stream.bus.protocol import GROUP, TOPIC, Bus
from transformations.errors import InputError
from transformations.secrets import HIDDEN, SECRET_NAME, redact, remember

Opener = Callable[[SplitResult, dict[str, str], str, str], Bus]


def open_bus(url: str, consumer: str) -> Bus:
    """Open the bus that a URL names.

    Args:
        consumer: The name of this consumer, unique in its group.

    Raises:
        InputError: the URL's scheme is not in the table, its host is missing or a key is unknown.
    """
    try:
        parts = urlsplit(url)
        # Of several brokers librdkafka reads the ports.
        one = "," in parts.netloc or (parts.hostname is not None and parts.port != 0)
        given = parts.scheme in BUSES and one and url.partition("?")[0].count("@") < 2
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError:
        given = False
    if not given:
        raise InputError(
            "expected a bus such as redis://host:6379/0?stream=activity or "
            f"kafka://host:9092/activity (schemes: {', '.join(BUSES)}), got "
            f"{HIDDEN + url[url.rfind('@') :] if '@' in url else redact(url)!r}; a "
            "password's own @ is written %40"
        )
    remember(parts.password and unquote(parts.password))
    for name, value in options.items():
        if SECRET_NAME.fullmatch(name):
            remember(value)
    group = options.pop("group", GROUP)
    return BUSES[parts.scheme](parts, options, group, consumer)


def _open_redis(parts: SplitResult, options: dict[str, str], group: str, consumer: str) -> Bus:
    from serving.stream.bus.redis import RedisBus

    stream = options.pop("stream", TOPIC)
    if options:
        raise InputError(
            "expected the keys stream and group after the ? of a Redis bus, got "
            f"{', '.join(options)}"
        )
    return RedisBus(parts._replace(query="").geturl(), stream, group, consumer)


def _open_kafka(parts: SplitResult, options: dict[str, str], group: str, _: str) -> Bus:
    from serving.stream.bus.kafka import KafkaBus

    if "@" in parts.netloc:
        raise InputError(
            "expected a Kafka bus's user and password as its settings &sasl.username=… and "
            "&sasl.password=…, got them before the host"
        )
    return KafkaBus(parts.netloc, parts.path.strip("/") or TOPIC, group, options)


# URL scheme → opener, which imports its client when it is called.
BUSES: dict[str, Opener] = {"redis": _open_redis, "rediss": _open_redis, "kafka": _open_kafka}
