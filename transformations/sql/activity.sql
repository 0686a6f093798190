-- one row per action of the period from $start on: what `activity` and `stg_activity` hold
-- Exact duplicates count once, with their earliest ingested_at. `copies` holds their attributes, in
-- the order in which they reached the source: the first that has an attribute decides it.
with
old_and_new as (
    select
        member_id,
        item_id,
        action,
        event_timestamp,
        ingested_at,
        attributes,
    from activity
    union all
    select
        member_id,
        item_id,
        action,
        event_timestamp,
        ingested_at,
        attributes,
    from stg_activity
    where date_trunc($period, day) = $start
),

merged as (
    select
        member_id,
        item_id,
        action,
        event_timestamp,
        min(ingested_at) as ingested_at,
        list(attributes order by ingested_at asc nulls last, attributes desc nulls last)
        filter (where attributes is not null) as copies,
    from old_and_new
    group by member_id, item_id, action, event_timestamp
    order by member_id, event_timestamp, item_id, action
)

select * from merged
