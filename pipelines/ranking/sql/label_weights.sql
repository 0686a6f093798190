-- one row per label: the factor of its weight, as a training example of an aggregator has it
-- Reads `activity` and `labels` (label, member_id, action). Needs the macro `weight_of`.
with
visible as (
    select
        member_id,
        action,
    from activity
    where
        event_timestamp < $until
        and coalesce(ingested_at < $until, true)
        and list_contains($actions, action)
),

of_members as (
    select
        member_id,
        count(*) as member_actions,
    from visible
    group by member_id
),

of_actions as (
    select
        action,
        count(*) / sum(count(*)) over () as action_share,
    from visible
    group by action
)

select weight_of(of_members.member_actions, of_actions.action_share)::float as weight
from labels
left join of_members on labels.member_id = of_members.member_id
left join of_actions on labels.action = of_actions.action
order by labels.label
