-- one row per action before $until, oldest first. Reads `activity`.
with
events as (
    select
        member_id,
        item_id,
        sign > 0 as positive,
        epoch_us(event_timestamp) as timestamp_us,
    from activity
    where
        event_timestamp < $until
        and list_contains($actions, action)
    order by event_timestamp, member_id, item_id, action
)

select * from events
