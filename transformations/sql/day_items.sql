-- one row per UTC day (since 1970) and item of a predicted kind that any member acted on that
-- day: its index
-- Reads `example_counts` of all members, `item_indexes` and `other_items`.
with
acted_on as (
    select distinct
        example_counts.day,
        item_indexes.item_index,
    from example_counts
    inner join item_indexes on example_counts.item_id = item_indexes.item_id
    anti join other_items on example_counts.item_id = other_items.item_id
    where example_counts.n_visible > 0
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
