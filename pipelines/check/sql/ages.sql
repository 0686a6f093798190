-- one row per bin: members whose last action before $as_of is that long ago
-- Reads `activity`. A bin is the number of $ends (microseconds, ascending) that do not exceed it.
with
members as (
    select
        member_id,
        epoch_us($as_of::timestamptz) - epoch_us(max(event_timestamp)) as age_us,
    from activity
    where event_timestamp < $as_of::timestamptz
    group by member_id
)

select
    len(list_filter($ends::bigint[], lambda e: e <= age_us)) as bin,
    count(*) as n_members,
from members
group by bin
order by bin
