-- one row per segment of members: what they lately acted on positively, the best first
-- Reads `activity_so_far`, `items_there`, and `profiles`: member_id, available_at, value. A
-- member's segment is its value as of $as_of. Every value that a profile had by then has a row, so
-- that no list of an earlier run stays online; one that fewer than $fewest members acted under has
-- the list of `all`. Somebody whose value reads `all` is in no segment of its own.
with
acted_on as (
    select distinct
        member_id,
        item_id,
    from activity_so_far
    where
        event_timestamp >= $start
        and event_timestamp < $as_of
        and coalesce(ingested_at < $as_of, true)
        and sign > 0
),

liked as (
    select
        acted_on.member_id,
        acted_on.item_id,
    from acted_on
    inner join items_there on acted_on.item_id = items_there.item_id
),

known as (
    select
        member_id,
        available_at,
        nullif(value, 'all') as value,
    from profiles
    where available_at <= $as_of
),

members as (
    select
        member_id,
        value,
    from known
    qualify row_number() over (partition by member_id order by available_at desc) = 1
),

liked_by as (
    select
        liked.member_id,
        liked.item_id,
        members.value,
    from liked
    left join members on liked.member_id = members.member_id
),

large as (
    select value as segment
    from liked_by
    where value is not null
    group by value
    having count(distinct member_id) >= $fewest
),

counted as (
    select
        'all' as made_of,
        item_id,
        count(*)::float as score,
    from liked
    group by item_id
    union all
    select
        liked_by.value as made_of,
        liked_by.item_id,
        count(*)::float as score,
    from liked_by
    inner join large on liked_by.value = large.segment
    group by liked_by.value, liked_by.item_id
),

best as (
    select *
    from counted
    qualify row_number() over (partition by made_of order by score desc, item_id asc) <= $count
),

listed as (
    select
        made_of,
        list(item_id order by score desc, item_id asc) as item_ids,
        list(score order by score desc, item_id asc) as scores,
    from best
    group by made_of
),

segments as (
    select 'all' as segment
    union
    select value as segment
    from known
    where value is not null
),

popular_by_profile as (
    select
        segments.segment,
        listed.item_ids,
        listed.scores,
    from segments
    left join large on segments.segment = large.segment
    inner join listed on coalesce(large.segment, 'all') = listed.made_of
    order by segments.segment
)

select * from popular_by_profile
