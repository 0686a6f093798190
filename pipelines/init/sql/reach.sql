-- one row: how dense the actions are, and how many positive ones have $needed earlier ones
-- Reads `actions`: member_id, item_id, action, event_timestamp. An earlier action is one that
-- stands in the window of its as_of: as_of - window <= event_timestamp < as_of. A timestamp before
-- 1990 is a default that somebody wrote, and would make the span long.
with
distinct_actions as (
    select distinct
        member_id,
        item_id,
        action,
        event_timestamp,
    from actions
    where
        member_id is not null
        and item_id is not null
        and list_contains($actions, action)
        and event_timestamp between timestamptz '1990-01-01' and $now + interval 1 day
),

counted as (
    select
        action,
        event_timestamp,
        count(*) over in_28d >= $needed as has_28d,
        count(*) over in_90d >= $needed as has_90d,
        count(*) over in_365d >= $needed as has_365d,
        count(*) over in_730d >= $needed as has_730d,
    from distinct_actions
    window
        in_28d as (
            partition by member_id order by event_timestamp
            range between interval 28 day preceding and interval 1 microsecond preceding
        ),
        in_90d as (
            partition by member_id order by event_timestamp
            range between interval 90 day preceding and interval 1 microsecond preceding
        ),
        in_365d as (
            partition by member_id order by event_timestamp
            range between interval 365 day preceding and interval 1 microsecond preceding
        ),
        in_730d as (
            partition by member_id order by event_timestamp
            range between interval 730 day preceding and interval 1 microsecond preceding
        )
)

select
    count(*) as n_actions,
    min(event_timestamp) as first_at,
    max(event_timestamp) as last_at,
    count(*) filter (where list_contains($positive, action)) as n_positive,
    count(*) filter (where list_contains($positive, action) and has_28d) as n_28d,
    count(*) filter (where list_contains($positive, action) and has_90d) as n_90d,
    count(*) filter (where list_contains($positive, action) and has_365d) as n_365d,
    count(*) filter (where list_contains($positive, action) and has_730d) as n_730d,
from counted
