-- one row: the items that most members lately acted on positively, the best first
-- Reads `activity_so_far`, and `items_there`: the items that may be recommended at $as_of. Of equal
-- items the one with the smaller id comes first, so that a rerun gives the same list.
with
acted_on as (
    select
        item_id,
        count(distinct member_id)::float as score,
    from activity_so_far
    where
        event_timestamp >= $start
        and event_timestamp < $as_of
        and coalesce(ingested_at < $as_of, true)
        and sign > 0
    group by item_id
),

best as (
    select
        items_there.item_id,
        acted_on.score,
    from items_there
    inner join acted_on on items_there.item_id = acted_on.item_id
    order by acted_on.score desc, items_there.item_id asc
    limit $count
),

popular_items as (
    select
        'all' as segment,
        list(item_id order by score desc, item_id asc) as item_ids,
        list(score order by score desc, item_id asc) as scores,
    from best
    having count(*) > 0
)

select * from popular_items
