-- one row per action with a sign in [$since, $until): a member's first one on an item
-- Reads `activity` and `items_known`. An item that was not known by then can be no label. Of more
-- than $most, a sample of members.
with
signed as (
    select
        activity.member_id,
        activity.item_id,
        activity.action,
        activity.event_timestamp,
        activity.sign,
    from activity
    inner join items_known on activity.item_id = items_known.item_id
    where
        activity.sign <> 0
        and activity.event_timestamp >= items_known.available_at
        and activity.event_timestamp < $until
        and coalesce(activity.ingested_at < $until, true)
    qualify row_number() over (
        partition by activity.member_id, activity.item_id
        order by activity.event_timestamp, activity.action
    ) = 1
),

of_the_time as (
    select *
    from signed
    where event_timestamp >= $since
),

counted as (
    select
        *,
        count(*) over () as labels,
    from of_the_time
),

sampled as (
    select * exclude (labels)
    from counted
    where hash(member_id, 17) % 1000000 < 1000000.0 * $most / labels
)

select * from sampled
order by event_timestamp, member_id, item_id
