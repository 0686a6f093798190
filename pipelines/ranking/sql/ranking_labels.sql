-- one row per action with a sign in [$since, $until): a member's first one on an item
-- Reads `activity` and `items_known`. An item that was not known by then can be no label. Of more
-- than $most, a sample of members.
with
signed as (
    select *
    from activity
    where
        sign <> 0
        and event_timestamp < $until
        and coalesce(ingested_at < $until, true)
),

news as (
    select
        signed.member_id,
        signed.item_id,
        signed.action,
        signed.event_timestamp,
        signed.sign,
        signed.attributes,
    from signed
    inner join items_known on signed.item_id = items_known.item_id
    where signed.event_timestamp >= items_known.available_at
    qualify row_number() over (
        partition by signed.member_id, signed.item_id
        order by signed.event_timestamp, signed.action
    ) = 1
),

of_the_time as (
    select *
    from news
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
