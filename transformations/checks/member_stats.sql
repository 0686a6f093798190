-- every rule that a row of member_stats breaks, one row each
with
rows_with_sums as (
    select
        *,
        list_sum([*columns(lambda c: list_contains($of_actions, c))]) as sum_of_actions,
        list_sum([*columns(lambda c: list_contains($of_day, c))]) as sum_of_day,
    from member_stats
),

repeated as (
    select
        'there is one row of each member' as rule,
        member_id,
    from member_stats
    group by member_id
    having count(*) > 1
),

broken as (
    select
        case
            when member_id is null then 'member_id is not null'
            when event_timestamp <> $as_of then 'event_timestamp is as_of'
            when not coalesce(created_timestamp >= event_timestamp, false)
                then 'created_timestamp is not before as_of'
            when not coalesce(n_sessions >= 0, false) then 'n_sessions is a count'
            when (n_sessions = 0) <> (last_session_at is null)
                then 'who has a session has a last one'
            when last_session_at >= $as_of then 'the last session began before as_of'
            when n_sessions > 0 and abs(coalesce(sum_of_actions, 0) - 1) > 1e-9
                then 'shares of actions add up to 1'
            when n_sessions > 0 and abs(coalesce(sum_of_day, 0) - 1) > 1e-9
                then 'shares of the parts of a day add up to 1'
            when not coalesce(active_days between 0 and n_sessions * actions_per_session, true)
                then 'days are at most as many as actions'
            when session_minutes < 0 then 'a session does not end before it begins'
        end as rule,
        member_id,
    from rows_with_sums
),

offending as (
    select * from repeated
    union all
    select * from broken
    where rule is not null
)

select
    rule,
    member_id,
from offending
