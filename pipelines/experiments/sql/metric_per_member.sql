-- one row per member: what a metric counts within $within of its first impression
-- Reads `experiment_members` and `metric_events`.
with
since as (
    select
        experiment_members.member_id,
        experiment_members.exposed_at,
        metric_events.event_timestamp,
        metric_events.amount,
    from experiment_members
    inner join metric_events
        on
            experiment_members.member_id = metric_events.member_id
            and experiment_members.exposed_at <= metric_events.event_timestamp
),

of_members as (
    select
        member_id,
        sum(amount) as amount,
    from since
    where event_timestamp < exposed_at + $within
    group by member_id
)

select
    experiment_members.member_id,
    coalesce(of_members.amount, 0)::double as amount,
    1::double as size,
from experiment_members
left join of_members on experiment_members.member_id = of_members.member_id
