-- one row per action with a sign before $until on an item that is predicted, oldest first
-- Reads `activity` and `other_items`.
with
candidates as (
    select activity.*
    from activity
    anti join other_items on activity.item_id = other_items.item_id
),

events as (
    select
        member_id,
        item_id,
        sign > 0 and list_contains($predicted, action) as positive,
        sign < 0 as negative,
        epoch_us(event_timestamp) as timestamp_us,
    from candidates
    where
        event_timestamp < $until
        and sign <> 0
        and list_contains($actions, action)
    order by event_timestamp, member_id, item_id, action
)

select * from events
