"""Where events come from: one small protocol, and the bus that a URL names.

    redis://host:6379/0?stream=activity&group=activity-stream
    kafka://host:9092,host2:9092/activity?group=activity-stream&session.timeout.ms=10000

Further keys of a Kafka URL are librdkafka's own settings.
"""

from urllib.parse import parse_qsl, urlsplit

from serving.stream.bus.protocol import GROUP, TOPIC, Bus
from transformations.errors import InputError


def open_bus(url: str, consumer: str) -> Bus:
    """Open the bus that a URL names.

    Args:
        consumer: The name of this member of the group; one at a time may have it.

    Raises:
        InputError: the URL is not of one of the two forms.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    group = options.pop("group", GROUP)
    if parts.scheme == "kafka" and parts.netloc:
        from serving.stream.bus.kafka import KafkaBus

        return KafkaBus(parts.netloc, parts.path.strip("/") or TOPIC, group, options)
    if parts.scheme in ("redis", "rediss") and parts.netloc:
        from serving.stream.bus.redis import RedisBus

        stream = options.pop("stream", TOPIC)
        if options:
            raise InputError(
                f"expected the keys stream and group after the ? of a Redis bus, got "
                f"{', '.join(options)}"
            )
        return RedisBus(parts._replace(query="").geturl(), stream, group, consumer)
    raise InputError(
        f"expected a bus such as redis://host:6379/0?stream=activity or "
        f"kafka://host:9092/activity, got {url!r}"
    )
