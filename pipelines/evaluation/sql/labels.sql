-- one row per action in [$since, $before) of a sampled member, on an item that had a vector by the
-- midnight of the newest snapshot readable at its time
-- Reads `activity`, and `first_items`, each item's first vector.
with
actions as (
    select
        member_id,
        item_id,
        action,
        event_timestamp,
        date_trunc('day', event_timestamp - $publish_delay) as as_of,
    from activity
    where
        event_timestamp >= $since
        and event_timestamp < $before
        and list_contains($actions, action)
        and hash(member_id, $seed) % 1000000 < $share * 1000000
),

labels as (
    select
        row_number() over (order by event_timestamp, member_id, item_id, action) - 1 as label,
        member_id,
        item_id,
        action,
        event_timestamp,
        as_of,
    from actions
    where
        as_of >= $first_snapshot
        and exists (
            select 1
            from first_items
            where
                actions.item_id = first_items.item_id
                and first_items.available_at <= actions.as_of
        )
    order by label
)

select * from labels
