-- one row per window: members with an action in it, and with $needed positive ones in the sequence
-- Reads `activity`. The rule of a sequence, counted: the last $length actions of
-- as_of - window <= event_timestamp < as_of. $windows are in microseconds.
with
last_actions as (
    select
        member_id,
        event_timestamp,
        sign > 0 as is_positive,
    from activity
    where event_timestamp < $as_of and (ingested_at is null or ingested_at < $as_of)
    qualify
        row_number() over (
            partition by member_id
            order by event_timestamp desc, item_id desc, action desc
        ) <= $length
),

windows as (
    select unnest($windows) as window_us,
),

starts as (
    select
        window_us,
        $as_of - to_microseconds(window_us) as start_at,
    from windows
),

sequences as (
    select
        starts.window_us,
        last_actions.member_id,
        count(*) filter (where last_actions.is_positive) as n_positive,
    from starts
    inner join last_actions on starts.start_at <= last_actions.event_timestamp
    group by starts.window_us, last_actions.member_id
),

counted as (
    select
        window_us,
        count(*) as n_active,
        count(*) filter (where n_positive >= $needed) as n_usable,
    from sequences
    group by window_us
)

select
    windows.window_us,
    coalesce(counted.n_active, 0) as n_active,
    coalesce(counted.n_usable, 0) as n_usable,
from windows
left join counted on windows.window_us = counted.window_us
order by windows.window_us
