-- one row per member that was shown something in an arm: which arm, since when, how much
-- Reads `exposures`; needs the macro `experiment_number`. `is_wrong`: in both arms, or in another
-- than its number says, which is looked at where $is_assigned.
with
members as (
    select
        member_id,
        min(shown_at) as exposed_at,
        bool_or(is_treatment) as is_treatment,
        bool_or(is_treatment) and not bool_and(is_treatment) as is_in_both,
        count(item_id) as n_impressions,
    from exposures
    where is_treatment is not null
    group by member_id
),

numbered as (
    select
        *,
        experiment_number($salt, $name, member_id) as number,
    from members
)

select
    member_id,
    exposed_at,
    is_treatment,
    is_in_both,
    n_impressions,
    $is_assigned and (
        is_in_both
        or case when is_treatment then number >= $share else number < $control_from end
    ) as is_wrong,
from numbered
