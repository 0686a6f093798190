-- one row per item, UTC day and action: how many of these actions are visible at `until`
-- Reads `activity`. Needs macros.sql.
with
example_counts as (
    select
        item_id,
        day_of(epoch_us(event_timestamp)) as day,
        action,
        count(*) filter (
            where (ingested_at is null or ingested_at < $until) and list_contains($actions, action)
        ) as n_visible,
    from activity
    where event_timestamp < $until
    group by all
)

select * from example_counts
