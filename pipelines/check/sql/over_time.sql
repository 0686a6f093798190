-- one row per $unit and action: how often it happened. Reads `activity`.
select
    date_trunc($unit, event_timestamp) as start_at,
    action,
    count(*) as n_actions,
from activity
group by start_at, action
order by start_at, action
