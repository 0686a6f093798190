-- one row per action between $first and $last, oldest first
-- Reads the table `activity`.
with
day as (
    select
        member_id,
        item_id,
        action,
        event_timestamp,
    from activity
    where event_timestamp >= $first and event_timestamp < $last
    order by event_timestamp, member_id, item_id, action
)

select * from day
