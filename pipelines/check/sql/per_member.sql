-- one row per power of two: members with that many actions, up to below the next power
-- Reads `activity`.
with
members as (
    select
        member_id,
        count(*) as n_actions,
    from activity
    group by member_id
),

-- A whole number has one binary digit more than its power of two; log2 would round.
powers as (
    select length(bin(n_actions)) - 1 as power,
    from members
)

select
    power,
    count(*) as n_members,
from powers
group by power
order by power
