-- one row per refused input row that `quarantine` does not hold yet
-- Reads `quarantine` and `refused`, the rows of this run. Equal rows are counted: where `refused`
-- has n more of them than `quarantine`, n are added.
with
old_and_new as (
    select
        member_id,
        item_id,
        action,
        event_timestamp,
        ingested_at,
        attributes,
        text,
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
        attributes,
        text,
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
    from old_and_new
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
