-- one row per day and release: its lists, and how many applications each brought within a day
-- Reads `impressions` and `events`. An application counts for the newest list that showed the job.
with
shown as (
    select
        request_id,
        release,
        member_id,
        item_id,
        shown_at,
    from impressions
    where release is not null
),

lists as (
    select distinct
        request_id,
        release,
        date_diff('day', $first::timestamptz, shown_at) as day,
    from shown
),

caused as (
    select
        shown.request_id,
        events.item_id,
    from events
    asof inner join shown
        on
            events.member_id = shown.member_id
            and events.item_id = shown.item_id
            and events.event_timestamp >= shown.shown_at
    where
        events.action = 'APPLY'
        and events.event_timestamp < shown.shown_at + interval 1 day
),

counted as (
    select
        request_id,
        count(distinct item_id) as n_applied,
    from caused
    group by request_id
),

of_lists as (
    select
        lists.day,
        lists.release::bigint as release,
        coalesce(counted.n_applied, 0) as n_applied,
    from lists
    left join counted on lists.request_id = counted.request_id
)

select
    day,
    release,
    count(*) as n_lists,
    avg(n_applied) as applied,
    coalesce(stddev_samp(n_applied), 0) as spread,
from of_lists
group by day, release
order by day, release
