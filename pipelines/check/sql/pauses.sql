-- one row per bin: actions that follow another one of their member after that long
-- Reads `activity`. A bin is the number of $ends (microseconds, ascending) that do not exceed it.
with
followed as (
    select
        epoch_us(event_timestamp)
        - epoch_us(lag(event_timestamp) over (partition by member_id order by event_timestamp))
            as pause_us,
    from activity
)

select
    len(list_filter($ends::bigint[], lambda e: e <= pause_us)) as bin,
    count(*) as n_actions,
from followed
where pause_us is not null
group by bin
order by bin
