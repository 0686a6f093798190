-- one row per action with a sign in [$since, $before) of a sampled member, on an item that had a
-- vector by its midnight: the newest one of which something could be read at its time
-- Reads `activity`, `other_items`, and `first_items`, each item's first vector.
with
candidates as (
    select activity.*
    from activity
    anti join other_items on activity.item_id = other_items.item_id
),

actions as (
    select
        member_id,
        item_id,
        action,
        event_timestamp,
        sign > 0 as positive,
        date_trunc('day', event_timestamp - $publish_delay) as midnight,
    from candidates
    where
        event_timestamp >= $since
        and event_timestamp < $before
        and list_contains($actions, action)
        and (sign < 0 or (sign > 0 and list_contains($predicted, action)))
        and hash(member_id, $seed) % 1000000 < $share * 1000000
),

labels as (
    select
        row_number() over (order by event_timestamp, member_id, item_id, action) - 1 as label,
        member_id,
        item_id,
        action,
        event_timestamp,
        positive,
        midnight,
    from actions
    where
        midnight >= $first_snapshot
        and exists (
            select 1
            from first_items
            where
                actions.item_id = first_items.item_id
                and first_items.available_at <= actions.midnight
        )
    order by label
)

select * from labels
