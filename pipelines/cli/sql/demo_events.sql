-- one row per action between $first and $last, oldest first, with the text of a search
-- Reads `activity` and `searches`.
with
day as (
    select
        member_id,
        item_id,
        action,
        event_timestamp,
    from activity
    where event_timestamp >= $first and event_timestamp < $last
),

with_texts as (
    select
        day.*,
        searches.text,
    from day
    left join searches on day.item_id = searches.item_id
    order by day.event_timestamp, day.member_id, day.item_id, day.action
)

select * from with_texts
