-- one row per UTC day (since 1970) and item that any member acted on that day: its place in the day
-- Reads `example_actions`.
with
acted_on as (
    select distinct
        moment // 86400000000 as day,
        item_place,
    from example_actions
),

day_items as (
    select
        day,
        item_place,
        row_number() over (partition by day order by item_place) as place_of_day,
        count(*) over (partition by day) as items_of_day,
    from acted_on
)

select * from day_items
