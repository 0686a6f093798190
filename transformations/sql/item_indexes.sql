-- one row per item with an action in the window: its index in the order of item_id, from 1
-- Reads the table `activity`.
with
items as (
    select distinct item_id
    from activity
    where event_timestamp >= $as_of - $window_length and event_timestamp < $as_of
),

item_indexes as (
    select
        item_id,
        row_number() over (order by item_id) as item_index,
    from items
)

select * from item_indexes
