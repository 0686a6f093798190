-- one row per member: how many lists it was shown, how many of them hold an item, what they took
-- Reads `exposures`. `n_timed` counts those of which it is known.
with
lists as (
    select
        member_id,
        request_id,
        count(item_id) > 0 as is_filled,
        max(seconds) as seconds,
    from exposures
    where is_treatment is not null
    group by member_id, request_id
)

select
    member_id,
    count(*)::double as n_lists,
    count_if(is_filled)::double as n_filled,
    count(seconds)::double as n_timed,
    coalesce(sum(seconds), 0)::double as seconds,
from lists
group by member_id
