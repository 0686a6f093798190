-- every rule that a row of item_stats breaks, one row each
with
counted as (
    select
        *,
        list_sum([*columns(lambda c: list_contains($counts_1d, c))]) as all_1d,
        list_sum([*columns(lambda c: list_contains($counts_7d, c))]) as all_7d,
        list_sum([*columns(lambda c: list_contains($counts_28d, c))]) as all_28d,
    from item_stats
),

repeated as (
    select
        'there is one row of each item' as rule,
        item_id,
    from item_stats
    group by item_id
    having count(*) > 1
),

broken as (
    select
        case
            when item_id is null then 'item_id is not null'
            when event_timestamp <> $as_of then 'event_timestamp is as_of'
            when not coalesce(created_timestamp >= $as_of, false)
                then 'created_timestamp is not before as_of'
            when not coalesce(0 <= all_1d and all_1d <= all_7d and all_7d <= all_28d, false)
                then 'counts are not null, and more of them lie in more days'
            when not coalesce(distinct_members_28d between 0 and all_28d, false)
                then 'members are at most as many as actions'
            when not coalesce(positive_share between 0 and 1, false)
                then 'positive_share lies between 0 and 1'
            when not coalesce(isfinite(trend), false) then 'trend is finite'
            when age_days < 0 then 'age_days is not negative'
            when not coalesce(popularity_rank >= 1, false) then 'popularity_rank begins with 1'
        end as rule,
        item_id,
    from counted
),

offending as (
    select * from repeated
    union all
    select * from broken
    where rule is not null
)

select
    rule,
    item_id,
from offending
