-- one row per member: its sessions since its first impression, and their minutes
-- Reads `experiment_members` and `experiment_activity`. A session is actions less than 30 minutes
-- apart; it lasts from its first action to its last.
with
actions as (
    select
        experiment_members.member_id,
        experiment_activity.event_timestamp,
    from experiment_members
    inner join experiment_activity
        on
            experiment_members.member_id = experiment_activity.member_id
            and experiment_members.exposed_at <= experiment_activity.event_timestamp
),

pauses as (
    select
        *,
        event_timestamp - lag(event_timestamp) over (
            partition by member_id
            order by event_timestamp
        ) as pause,
    from actions
),

numbered as (
    select
        *,
        count_if(pause is null or pause >= interval 30 minute) over (
            partition by member_id
            order by event_timestamp
        ) as session,
    from pauses
),

sessions as (
    select
        member_id,
        session,
        epoch_us(max(event_timestamp)) - epoch_us(min(event_timestamp)) as us,
    from numbered
    group by member_id, session
),

of_members as (
    select
        member_id,
        count(*) as n_sessions,
        sum(us) / 60000000 as minutes,
    from sessions
    group by member_id
)

select
    experiment_members.member_id,
    coalesce(of_members.n_sessions, 0) as n_sessions,
    coalesce(of_members.minutes, 0)::double as minutes,
from experiment_members
left join of_members on experiment_members.member_id = of_members.member_id
