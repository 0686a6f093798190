-- one row: positive actions before $before that a training may take as labels, at most
-- Reads `activity`. A member's first action follows nothing, so it is no label.
with
per_member as (
    select
        count(*) as n_actions,
        count(*) filter (
            where event_timestamp < $before and sign > 0
        ) as n_positive,
        arg_min(sign > 0, event_timestamp) as first_is_positive,
    from activity
    where event_timestamp < $until
    group by member_id
)

select coalesce(sum(greatest(n_positive - first_is_positive::int, 0)), 0)::bigint as n_labels
from per_member
where n_actions >= $min_actions
