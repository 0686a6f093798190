-- one row per UTC day (since 1970) and item of a predicted kind that any member acted on that
-- day: its index
-- Reads `example_actions`. Needs macros.sql.
with
acted_on as (
    select distinct
        day_of(event_us) as day,
        item_index,
    from example_actions
    where is_candidate
),

day_items as (
    select
        day,
        item_index,
        row_number() over (partition by day order by item_index) as index_of_day,
        count(*) over (partition by day) as items_of_day,
    from acted_on
)

select * from day_items
