-- one row per action before $until, by member, oldest first. Reads `activity`.
with
delayed_events as (
    select
        member_id,
        item_id,
        action,
        attributes,
        epoch_us(event_timestamp) as timestamp_us,
        epoch_us(ingested_at) as ingested_us,
    from activity
    where
        event_timestamp < $until
        and list_contains($actions, action)
    order by member_id, timestamp_us
)

select * from delayed_events
