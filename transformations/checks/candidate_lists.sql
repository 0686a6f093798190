-- every rule that a row of candidate_lists breaks, one row each
-- `list_of` is the column that the lists are of: item_id or segment.
with
repeated as (
    select
        'there is one list of each key' as rule,
        list_of,
    from candidate_lists
    group by list_of
    having count(*) > 1
),

broken as (
    select
        case
            when list_of is null then 'the key is not null'
            when coalesce(len(item_ids), 0) = 0 then 'a list is not empty'
            when len(item_ids) <> coalesce(len(scores), 0) then 'each item has a score'
            when len(list_distinct(item_ids)) <> len(item_ids)
                then 'items of a list are distinct and not null'
            when not isfinite(list_sum(scores)) then 'scores are finite'
            when list_reverse_sort(scores) <> scores then 'the best come first'
            when list_contains(item_ids::varchar[], list_of::varchar) and of_items
                then 'an item is not its own neighbour'
            when event_timestamp <> $as_of then 'event_timestamp is as_of'
            when not coalesce(created_timestamp >= $as_of, false)
                then 'created_timestamp is not before as_of'
        end as rule,
        list_of,
    from candidate_lists
),

offending as (
    select * from repeated
    union all
    select * from broken
    where rule is not null
)

select
    rule,
    list_of,
from offending
