-- one row per positive action on an item that is predicted, oldest first
-- Reads `activity` and `other_items`.
with
candidates as (
    select activity.*
    from activity
    anti join other_items on activity.item_id = other_items.item_id
),

positive_times as (
    select epoch_us(event_timestamp) as timestamp_us
    from candidates
    where
        sign > 0
        and list_contains($predicted, action)
    order by event_timestamp
)

select * from positive_times
