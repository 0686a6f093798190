-- one row per action before $until, member after member, oldest first; Reads `activity`
with
delayed_events as (
    select
        member_id,
        item_id,
        action,
        epoch_us(event_timestamp) as moment,
        epoch_us(ingested_at) as ingested,
    from activity
    where
        event_timestamp < $until
        and list_contains($actions, action)
    order by member_id, moment
)

select * from delayed_events
