-- one row per fact of a member's first list and its value: members of each arm
-- Reads `experiment_members` and `exposures`. The first list, since members were assigned and their
-- lists were not: the later ones hang on each other.
with
lists as (
    select
        experiment_members.member_id,
        experiment_members.is_treatment,
        experiment_members.exposed_at,
        exposures.request_id,
        any_value(exposures.surface) as surface,
        any_value(exposures.path) as path,
        coalesce(min(exposures.position) || ' to ' || max(exposures.position), 'none')
            as positions,
    from experiment_members
    inner join exposures
        on
            experiment_members.member_id = exposures.member_id
            and experiment_members.exposed_at = exposures.shown_at
    where not experiment_members.is_in_both
    group by all
),

firsts as (
    select *
    from lists
    qualify row_number() over (partition by member_id order by request_id) = 1
),

facts as (
    select
        is_treatment,
        unnest(['surface', 'positions', 'path', 'first day']) as fact,
        unnest([
            coalesce(surface, 'none'), positions, path, exposed_at::date::varchar,
        ]) as value,
    from firsts
)

select
    fact,
    value,
    count(*) filter (where not is_treatment) as control,
    count(*) filter (where is_treatment) as treatment,
from facts
where value is not null
group by fact, value
order by fact, value
