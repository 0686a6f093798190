-- one row per refused input row that `quarantine` does not hold yet; reads `refused`, those of
-- this run. Rows that are alike count: as many are added as came more than are there.
with
came_and_known as (
    select
        member_id,
        item_id,
        action,
        event_timestamp,
        ingested_at,
        line,
        reason,
        source,
        true as is_new,
    from refused
    union all
    select
        member_id,
        item_id,
        action,
        event_timestamp,
        ingested_at,
        line,
        reason,
        source,
        false as is_new,
    from quarantine
),

tallied as (
    select
        * exclude (is_new),
        count(*) filter (where is_new) - count(*) filter (where not is_new) as more,
    from came_and_known
    group by all
),

repeated as (
    select
        *,
        unnest(range(more)) as repetition,
    from tallied
),

added as (
    select * exclude (more, repetition) from repeated
)

select * from added
