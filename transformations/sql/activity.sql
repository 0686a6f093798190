-- one row per action of $day: what was known (`activity`) and what came (`stg_activity`), with
-- exact duplicates once; of their ingested_at the earliest that is known
with
came_and_known as (
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
    from came_and_known
    group by member_id, item_id, action, event_timestamp
    order by member_id, event_timestamp, item_id, action
)

select * from merged
