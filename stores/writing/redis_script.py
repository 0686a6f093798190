"""The Lua script by which a Redis server keeps the newer of a stored and an incoming row."""

from functools import cache
from hashlib import sha1

FIELDS_PER_HSET = 50  # Lua passes at most 250 arguments

# ARGV: event field, created field, seconds to live or 0, number of features, their fields, then per
# key its event and created Timestamp messages ('' for none) and its values.
_UPSERT = """
local call = redis.call

local function varint(text, at)
    local number, scale, byte = 0, 1
    local first = at
    repeat
        byte = string.byte(text, at)
        number = number + (byte % 128) * scale
        scale = scale * 128
        at = at + 1
    until byte < 128
    if at - first == 10 then
        -- A negative number, in two's complement: a double would lose its low bits.
        number, scale = 0, 1
        for index = first, first + 8 do
            number = number + (127 - string.byte(text, index) % 128) * scale
            scale = scale * 128
        end
        number = -number - 1
    end
    return number, at
end

local function parse(text)
    local seconds, nanos, at = 0, 0, 1
    while at <= #text do
        if string.byte(text, at) == 8 then
            seconds, at = varint(text, at + 1)
        else
            nanos, at = varint(text, at + 1)
        end
    end
    return seconds, nanos
end

local function older(left, right)
    if left == right then return false end
    local left_seconds, left_nanos = parse(left)
    local right_seconds, right_nanos = parse(right)
    if left_seconds ~= right_seconds then return left_seconds < right_seconds end
    return left_nanos < right_nanos
end

local event_field, created_field, live = ARGV[1], ARGV[2], tonumber(ARGV[3])
local at, written = 4 + WIDTH, 0
for index = 1, #KEYS do
    local key, event, created = KEYS[index], ARGV[at + 1], ARGV[at + 2]
    local stored, stored_created, stale = call('HGET', key, event_field), false, false
    if stored then
        stored_created = call('HGET', key, created_field)
        if stored == event then
            stale = stored_created and (created == '' or older(created, stored_created))
        else
            stale = older(event, stored)
        end
    end
    if not stale then
        if created ~= '' then
            call('HSET', key, event_field, event, created_field, created FIRST)
        else
            if stored_created then call('HDEL', key, created_field) end
            call('HSET', key, event_field, event FIRST)
        end
        REST
        if live > 0 then call('EXPIRE', key, live) end
        written = written + 1
    end
    at = at + 2 + WIDTH
end
return written
"""


@cache
def upsert(width: int) -> tuple[str, str]:
    """Return the script for rows of `width` features, and its SHA.

    The script spells out the features, because making and unpacking a list of them per key takes
    longer than the write itself.
    """
    pairs = [f", ARGV[{4 + nth}], ARGV[at + {2 + nth}]" for nth in range(1, width + 1)]
    first, rest = pairs[:FIELDS_PER_HSET], pairs[FIELDS_PER_HSET:]
    calls = [
        f"call('HSET', key{''.join(rest[start : start + FIELDS_PER_HSET])})"
        for start in range(0, len(rest), FIELDS_PER_HSET)
    ]
    script = _UPSERT.replace("WIDTH", str(width)).replace(" FIRST", "".join(first))
    script = script.replace("REST", "\n        ".join(calls))
    return script, sha1(script.encode(), usedforsecurity=False).hexdigest()
