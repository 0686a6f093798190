-- one row per item with an action before `until`: its index in the order of item_id, from 1
-- Reads `example_counts` of all members.
with
items as (
    select distinct item_id
    from example_counts
),

item_indexes as (
    select
        item_id,
        row_number() over (order by item_id) as item_index,
    from items
)

select * from item_indexes
