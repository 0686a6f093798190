-- one row per arm: how many items are in its lists, of as many lists as the smaller arm has
-- Reads `experiment_members` and `exposures`.
with
shown as (
    select
        exposures.is_treatment,
        exposures.request_id,
        exposures.item_id,
    from exposures
    inner join experiment_members on exposures.member_id = experiment_members.member_id
    where exposures.is_treatment is not null and not experiment_members.is_in_both
),

lists as (
    select distinct
        is_treatment,
        request_id,
    from shown
),

numbered as (
    select
        is_treatment,
        request_id,
        row_number() over (partition by is_treatment order by hash(request_id), request_id)
            as number,
    from lists
),

fewest as (
    select count(*) as n_lists,
    from lists
    group by is_treatment
    order by n_lists
    limit 1
)

select
    shown.is_treatment,
    count(distinct shown.item_id) as n_items,
from shown
inner join numbered
    on shown.is_treatment = numbered.is_treatment and shown.request_id = numbered.request_id
cross join fewest
where numbered.number <= fewest.n_lists
group by shown.is_treatment
order by shown.is_treatment
