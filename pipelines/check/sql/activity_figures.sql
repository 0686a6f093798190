-- one row: span, largest gap, actions per member, and what is suspicious about the times
-- Reads `activity`. A timestamp before 1990 is a default, or was read in a wrong unit.
with
after_another as (
    select
        event_timestamp,
        lag(event_timestamp) over (order by event_timestamp) as before_at,
    from activity
),

spans as (
    select
        count(*) as n_actions,
        min(event_timestamp) as first_at,
        max(event_timestamp) as last_at,
        arg_max(before_at, event_timestamp - before_at) as gap_from,
        arg_max(event_timestamp, event_timestamp - before_at) as gap_to,
        count(*) filter (where event_timestamp = date_trunc('day', event_timestamp)) as n_midnight,
        count(*) filter (where event_timestamp < timestamptz '1990-01-01') as n_old,
    from after_another
),

per_member as (
    select
        member_id,
        count(*) as n_rows,
    from activity
    group by member_id
),

members as (
    select
        count(*) as n_members,
        quantile_disc(n_rows, 0.5) as p50,
        quantile_disc(n_rows, 0.9) as p90,
        max(n_rows) as most,
    from per_member
),

per_member_and_time as (
    select
        member_id,
        event_timestamp,
        count(*) as n_rows,
    from activity
    group by member_id, event_timestamp
),

shared as (
    select coalesce(sum(n_rows) filter (where n_rows > 1), 0)::bigint as n_shared,
    from per_member_and_time
),

per_time as (
    select
        event_timestamp,
        sum(n_rows)::bigint as n_rows,
    from per_member_and_time
    group by event_timestamp
),

crowds as (
    select
        arg_max(event_timestamp, n_rows) as crowd_at,
        max(n_rows) as n_crowd,
    from per_time
)

select
    spans.n_actions,
    spans.first_at,
    spans.last_at,
    spans.gap_from,
    spans.gap_to,
    members.n_members,
    members.p50,
    members.p90,
    members.most,
    shared.n_shared,
    spans.n_midnight,
    spans.n_old,
    crowds.crowd_at,
    crowds.n_crowd,
from spans
cross join members
cross join shared
cross join crowds
