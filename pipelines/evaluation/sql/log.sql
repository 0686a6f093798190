-- one row per action before $until, in the order of a sequence, member by member
-- Reads `activity`.
with
log as (
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
    order by member_id, timestamp_us, item_id, action
)

select * from log
