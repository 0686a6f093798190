-- one row: positive actions before $before that a training may take as labels, at most
-- Reads `activity`. A member's first action follows nothing, so it is no label.
with
actions as (
    select
        member_id,
        event_timestamp,
        sign > 0 and list_contains($predicted, action) as is_positive,
    from activity
    where event_timestamp < $until
),

per_member as (
    select
        count(*) as n_actions,
        count(*) filter (where event_timestamp < $before and is_positive) as n_positive,
        arg_min(is_positive, event_timestamp) as first_is_positive,
    from actions
    group by member_id
)

select coalesce(sum(greatest(n_positive - first_is_positive::int, 0)), 0)::bigint as n_labels
from per_member
where n_actions >= $min_actions
