-- The bits of a packed action, days, and buckets. `transformations.duck.connect` runs this file;
-- paste it before a query that uses it.
-- A packed action is one number that sorts as (event_timestamp, item_id, action): from the top,
-- microseconds since 1970, the item's index (48 bits) and the action's index (16 bits).
create or replace temp macro pack(us, item_index, action_index) as
(us::uhugeint << 64) | (item_index::uhugeint << 16) | action_index::uhugeint;

create or replace temp macro us_of(packed) as (packed >> 64)::bigint;

create or replace temp macro timestamp_of(packed) as make_timestamptz((packed >> 64)::bigint);

create or replace temp macro item_of(packed) as ((packed >> 16) & 281474976710655)::bigint;

create or replace temp macro action_of(packed) as (packed & 65535)::bigint;

-- Of microseconds since 1970: their day since 1970, and its midnight in microseconds.
create or replace temp macro day_of(us) as us // 86400000000;

create or replace temp macro midnight_of(us) as us // 86400000000 * 86400000000;

-- The bucket of a member's id, as transformations/buckets.py says.
create or replace temp macro bucket_of(id, buckets) as
('0x' || right(sha256(id::varchar), 15))::bigint % buckets;
