-- one row per action of $day: what `activity` holds and what `stg_activity` adds
-- Exact duplicates count once, with their earliest ingested_at.
with
old_and_new as (
    select
        member_id,
        item_id,
        action,
        event_timestamp,
        ingested_at,
    from activity
    union all
    select
        member_id,
        item_id,
        action,
        event_timestamp,
        ingested_at,
    from stg_activity
    where day = $day
),

merged as (
    select
        member_id,
        item_id,
        action,
        event_timestamp,
        min(ingested_at) as ingested_at,
    from old_and_new
    group by member_id, item_id, action, event_timestamp
    order by member_id, event_timestamp, item_id, action
)

select * from merged
