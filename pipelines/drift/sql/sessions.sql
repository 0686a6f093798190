-- one row per day and measure: how long the sessions of its members were, in actions and minutes
-- Reads `drift_sessions`: all actions of some members. A session's actions are less than 30 minutes
-- apart; midnight ends it. The error is that of the logarithm of the mean.
with
gaps as (
    select
        back,
        member_id,
        event_timestamp,
        coalesce(
            event_timestamp - lag(event_timestamp) over acts >= interval 30 minutes, true
        ) as begins,
    from drift_sessions
    window acts as (partition by back, member_id order by event_timestamp)
),

numbered as (
    select
        back,
        member_id,
        event_timestamp,
        sum(begins::integer) over (
            partition by back, member_id order by event_timestamp rows unbounded preceding
        ) as session,
    from gaps
),

sessions as (
    select
        back,
        count(*) as n_actions,
        epoch(max(event_timestamp) - min(event_timestamp)) / 60 as minutes,
    from numbered
    group by back, member_id, session
),

lengths as (
    select
        back,
        'session actions' as measure,
        n_actions as amount,
    from sessions
    union all
    select
        back,
        'session minutes' as measure,
        minutes as amount,
    from sessions
),

told as (
    select
        back,
        measure,
        avg(amount) as mean,
        stddev_samp(amount) as deviation,
        count(*) as n_rows,
    from lengths
    group by back, measure
)

select
    back,
    measure,
    '' as part,
    'size' as kind,
    mean as amount,
    n_rows,
    coalesce(deviation, mean) / mean / sqrt(n_rows) as error,
from told
where mean > 0
