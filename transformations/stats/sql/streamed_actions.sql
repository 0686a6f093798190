-- one row per action since $since that the stream told of before $as_of and `staged` has not
-- Reads `streamed_rows` (an action of a streamed row each) and `staged` (activity). Each row of a
-- member has its last actions, so most actions stand in several: the first one told of it.
with
known as (
    select
        member_id,
        item_id,
        action,
        event_timestamp,
        min(created_timestamp) as ingested_at,
        arg_min(attributes, created_timestamp) as attributes,
        arg_min(sign, created_timestamp) as sign,
    from streamed_rows
    where
        event_timestamp >= $since
        and created_timestamp < $as_of
    group by member_id, item_id, action, event_timestamp
),

visible as (
    select
        member_id,
        item_id,
        action,
        event_timestamp,
    from staged
    where coalesce(ingested_at < $as_of, true)
)

select known.*
from known
anti join visible
    on
        known.member_id = visible.member_id
        and known.item_id = visible.item_id
        and known.action = visible.action
        and known.event_timestamp = visible.event_timestamp
